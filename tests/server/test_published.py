"""What stands between a caller and the server: a prefix, a proxy with TLS, pages of other origins, probes with HEAD."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from oodguard.server.keys import digest, new_key

KEY = new_key()
SHOP = "https://shop.example"
PNG = {"content-type": "image/png"}


@pytest.mark.parametrize("path", ["/predict/", "/predict//", "/health/ready/", "/v2/models/discs/infer/", "/docs/"])
def test_a_slash_too_many_is_404_and_never_a_redirect(client: Any, path: str, picture: Any) -> None:
    for method in ("GET", "POST"):
        answer = client.request(
            method, path, content=picture(), headers=PNG | {"x-forwarded-proto": "https"}, follow_redirects=False
        )
        assert answer.status_code == 404
        assert "location" not in answer.headers
        assert f"ask {path.rstrip('/')}, without the slash" in answer.text


HEADS = [
    "/health/live",
    "/health/ready",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2",
    "/v2/models/discs",
    "/model",
    "/",
]


@pytest.mark.parametrize("path", HEADS)
def test_what_answers_get_answers_head(client: Any, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == got.headers["content-length"]
    assert client.private.head("/health/live").status_code == client.private.head("/metrics").status_code == 200


def test_head_of_a_real_server_has_no_body_and_is_logged_as_such(server: Any) -> None:
    running = server("--log-level", "info")
    with httpx.Client(base_url=running.url) as connection:
        for _ in range(3):
            assert connection.head("/health/ready").status_code == 200
            assert connection.get("/health/ready").json()["status"] == "ready"
    assert running.stop() == 0
    assert "HEAD /health/ready 200" in running.output()


def test_head_where_there_is_no_get(client: Any) -> None:
    answer = client.head("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert client.post("/health/live").headers["allow"] == "GET, HEAD"


def test_a_prefix_is_taken_off_whether_or_not_the_proxy_does(start: Any, golden: list[bytes]) -> None:
    client = start(root_path="/team/guard")
    expected = client.post("/predict", content=golden[0], headers=PNG)
    assert expected.status_code == 200
    prefixed = client.post("/team/guard/predict", content=golden[0], headers=PNG)
    assert prefixed.json()["predictions"] == expected.json()["predictions"]
    assert client.sample('oodguard_requests_total{route="/predict",status="200"}') == 2.0
    for path in ("/health/ready", "/v2/models/discs", "/static/page.js", "/"):
        assert client.get(f"/team/guard{path}").content == client.get(path).content
    assert client.post("/team/guard/v2/models/discs/infer", json={}).json()["error"].startswith("bad_body")
    for path in ("/team/guards/predict", "/team/predict", "/team/guard/team/guard/predict"):
        assert client.post(path, content=golden[0], headers=PNG).status_code == 404
    bare = client.get("/team/guard", follow_redirects=False)
    assert bare.headers["location"] == "/team/guard/"
    assert client.get("/team/guard/openapi.json").json()["servers"] == [{"url": "/team/guard"}]
    assert client.private.get("/team/guard/metrics").status_code == 404


def test_a_prefix_opens_nothing(start: Any, golden: list[bytes]) -> None:
    client = start(root_path="/guard", key_hashes=f"a:{digest(KEY)}")
    for path in ("/predict", "/guard/predict", "/guard/predict/", "/guard//predict"):
        assert client.post(path, content=golden[0], headers=PNG).status_code == 401
    assert client.post("/guard/predict", content=golden[0], headers=PNG | {"x-api-key": KEY}).status_code == 200


def preflight(client: Any, origin: str, headers: str = "x-api-key,content-type") -> Any:
    asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": headers}
    return client.options("/predict", headers=asked)


def test_without_the_setting_no_page_of_another_origin_may_call(client: Any, golden: list[bytes]) -> None:
    assert preflight(client, SHOP).status_code == 405
    answer = client.post("/predict", content=golden[0], headers=PNG | {"origin": SHOP})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_named_origins_may_call_with_a_key_and_no_others(start: Any, golden: list[bytes]) -> None:
    client = start(cors_origins=f"{SHOP},http://localhost:3000", key_hashes=f"a:{digest(KEY)}")
    for origin in (SHOP, "http://localhost:3000"):
        asked = preflight(client, origin)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == origin
        assert asked.headers["access-control-allow-methods"] == "GET, POST"
        assert "access-control-allow-credentials" not in asked.headers
        assert asked.headers["x-content-type-options"] == "nosniff"
    for origin in ("https://evil.example", f"{SHOP}.evil.example", "http://shop.example", "null"):
        asked = preflight(client, origin)
        assert asked.status_code == 400
        assert "access-control-allow-origin" not in asked.headers
    assert preflight(client, SHOP, "x-other").status_code == 400
    assert client.sample('oodguard_requests_total{route="/predict",status="200"}') == 2.0
    sent = PNG | {"origin": SHOP}
    answer = client.post("/predict", content=golden[0], headers=sent | {"x-api-key": KEY})
    assert answer.status_code == 200
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    refused = client.post("/predict", content=golden[0], headers=sent)
    # A page can read why it was refused.
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, SHOP)
    foreign = client.post("/predict", content=golden[0], headers=sent | {"origin": "https://evil.example"})
    assert (foreign.status_code, "access-control-allow-origin" in foreign.headers) == (401, False)
    assert client.private.options("/metrics", headers={"origin": SHOP}).status_code == 405

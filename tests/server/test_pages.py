"""Strangers' web pages in the browser of an operator, and numbers that are none."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from oodguard.core.codes import Code
from oodguard.server.errors import RequestError
from oodguard.server.keys import digest, new_key
from oodguard.server.numerals import decimal, whole
from oodguard.server.pages import Pages

PNG = {"content-type": "image/png"}


def refused(pages: Pages, method: str = "GET", **headers: str) -> bool:
    given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    try:
        pages.require(method, given)
    except RequestError as error:
        return error.code is Code.FORBIDDEN
    return False


@pytest.mark.parametrize(
    ("host", "bad"),
    [
        ("localhost:8000", False), ("127.0.0.1", False), ("[::1]:8000", False), ("guard:8000", False),
        ("app.localhost", False), ("Guard.Example:80", False), ("10.0.0.7:80", False), ("", False),
        ("evil.example:8000", True), ("localhost.evil.example", True), ("evil.example.", True),
        ("127.0.0.1.evil.example", True),
    ],
)  # fmt: skip
def test_only_names_that_nobody_can_rebind_are_answered(host: str, bad: bool) -> None:
    pages = Pages("127.0.0.1", keyless=True, names=["guard.example"])
    assert refused(pages, host=host) is bad
    assert refused(pages, "POST", host=host) is bad


@pytest.mark.parametrize(
    ("headers", "bad"),
    [
        ({}, False),
        ({"origin": "http://localhost:8000"}, False),
        ({"origin": "https://localhost:8000"}, False),
        ({"origin": "https://shop.example"}, False),
        ({"origin": "http://localhost:3000"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"sec_fetch_site": "cross-site"}, True),
        ({"sec_fetch_site": "same-origin"}, False),
        ({"sec_fetch_site": "none"}, False),
    ],
)
def test_what_changes_something_comes_from_the_servers_own_page(headers: dict[str, str], bad: bool) -> None:
    pages = Pages("localhost", keyless=True, origins=["https://shop.example"])
    assert refused(pages, "POST", host="localhost:8000", **headers) is bad
    assert refused(pages, "GET", host="localhost:8000", **headers) is False


@pytest.mark.parametrize(
    ("host", "keyless", "needed"),
    [("127.0.0.1", True, True), ("127.0.0.1", False, False), ("0.0.0.0", True, False), ("unix:/s", True, False)],
)
def test_where_pages_are_looked_at(host: str, keyless: bool, needed: bool) -> None:
    assert Pages(host, keyless=keyless).needed is needed


def test_a_page_can_neither_reload_nor_rebind(server: Any, golden: list[bytes]) -> None:
    running = server()
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = httpx.post(f"{running.private}/admin/reload", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), headers
        assert httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG | headers).status_code == 403
    for url in (f"{running.private}/metrics", f"{running.url}/model"):
        assert httpx.get(url, headers={"host": "evil.example:80"}).status_code == 403
    assert running.sample('oodguard_rejected_total{code="forbidden"}') == 8
    own = {"origin": running.url}
    assert httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG | own).status_code == 200
    assert httpx.post(f"{running.private}/admin/reload", timeout=30).status_code == 200


def test_a_server_behind_a_proxy_is_called_by_its_names_or_has_keys(start: Any, golden: list[bytes]) -> None:
    key = new_key()
    named, keyed = start(host_names="guard.example,g.example"), start(key_hashes=f"alice:{digest(key)}")
    elsewhere = {"host": "guard.example"}
    assert named.post("/predict", content=golden[0], headers=PNG | elsewhere).status_code == 200
    assert named.private.get("/metrics", headers=elsewhere).status_code == 403
    headers = PNG | elsewhere | {"x-api-key": key}
    assert keyed.post("/predict", content=golden[0], headers=headers).status_code == 200
    assert keyed.get("/", headers=elsewhere).status_code == 200


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("0012", 12), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("9" * 5000, None), ("", None), ("-1", None),
     ("+1", None), (" 1", None), ("1_0", None), ("1.0", None), ("\u00b2", None), ("\u0663", None)],
)  # fmt: skip
def test_whole_numbers(text: str, number: int | None) -> None:
    assert whole(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.95", 0.95), (".5", 0.5), ("5.", 5.0), ("1e9", 1e9), ("-2E-3", -0.002), ("1e999", float("inf")),
     ("9" * 5000, None), ("1_0", None), (" 1", None), ("nan", None), ("inf", None), ("0x1p4", None), ("\u0663", None),
     ("\uff11", None), ("", None), (".", None)],
)  # fmt: skip
def test_numbers_with_a_fraction(text: str, number: float | None) -> None:
    assert decimal(text) == number


@pytest.mark.parametrize("text", ["\u00b2", "9" * 5000, "-5", "1_0", ""])
def test_a_length_that_is_no_number_is_a_bad_request(client: Any, golden: list[bytes], text: str) -> None:
    headers = {"inference-header-content-length": text.encode("latin-1")}
    answer = client.post("/v2/models/discs/infer", content=b"{}", headers=headers)
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]


@pytest.mark.parametrize(
    "query", ["accept=%D9%A0.9", "accept=0_9", "top_k=%C2%B2", "top_k=1e300", "top_k=" + "9" * 4400]
)
def test_a_parameter_that_is_no_number_is_refused(client: Any, golden: list[bytes], query: str) -> None:
    answer = client.post(f"/predict?{query}", content=golden[0], headers=PNG)
    assert answer.status_code in (422, 200)
    assert (answer.status_code == 200) is ("1e300" in query)


def test_a_timeout_that_is_no_number_is_refused(client: Any, golden: list[bytes]) -> None:
    for text in (b"\xb2", b"9" * 5000, b"1_0", b"0x50"):
        answer = client.post("/predict", content=golden[0], headers=PNG | {"x-request-timeout-ms": text})
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")

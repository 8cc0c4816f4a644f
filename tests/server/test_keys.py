from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodguard.core.errors import InputError
from oodguard.server.keys import KeyRing, digest, new_key, parse_keys


def test_a_key_opens_and_only_its_hash_is_kept() -> None:
    key, other = new_key(), new_key()
    ring = KeyRing(hashes=f"alice:{digest(key)},bob:{digest(other)}")
    assert ring.who(f"Bearer {key}", None) == "alice"
    assert ring.who(None, other) == "bob"
    assert key not in repr(vars(ring))
    for authorization, api_key in (
        (None, None), ("", ""), ("Bearer", None), (f"Basic {key}", None), (f"Bearer {key}x", None), (None, digest(key)),
    ):  # fmt: skip
        assert ring.who(authorization, api_key) is None


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ([], "no key"),
        (["# nothing", ""], "no key"),
        (["alice:abc"], "entry 1"),
        (["alice:" + "0" * 64, "alice:" + "1" * 64], "repeats"),
        (["og_secret-key-pasted-by-mistake"], "entry 1"),
    ],
)
def test_a_bad_key_file_is_refused_without_quoting_it(lines: list[str], word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        parse_keys(lines, "keys")
    assert "secret" not in str(caught.value)


def test_routes_need_a_key_health_does_not(start: Any, tmp_path: Path, picture: Any) -> None:
    key = new_key()
    file = tmp_path / "keys"
    file.write_text(f"# callers\nalice:{digest(key)}\n")
    client = start(key_file=file)
    body = {"content": picture(), "headers": {"content-type": "image/png"}}
    refused = client.post("/predict", **body)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    body["headers"] |= {"x-api-key": key}
    assert client.post("/predict", **body).status_code == 200
    assert client.get("/openapi.json").status_code == 401
    assert client.get("/v2/models/discs").json()["error"].startswith("unauthorized")
    assert client.get("/openapi.json", headers={"authorization": f"Bearer {key}"}).status_code == 200
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    assert client.private.get("/metrics").status_code == 200
    assert client.private.post("/admin/reload").status_code == 401


def test_keys_rotate_without_a_restart(start: Any, tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    file = tmp_path / "keys"
    file.write_text(f"a:{digest(old)}\n")
    client = start(key_file=file)
    file.write_text(f"a:{digest(old)}\nb:{digest(new)}\n")
    client.parts.keys.reload()
    assert {client.get("/openapi.json", headers={"x-api-key": k}).status_code for k in (old, new)} == {200}
    file.write_text(f"b:{digest(new)}\n")
    client.parts.keys.reload()
    assert client.get("/openapi.json", headers={"x-api-key": old}).status_code == 401

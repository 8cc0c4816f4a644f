from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from oodguard.core.errors import InputError
from oodguard.server.errors import ReloadRefused
from oodguard.server.keys import KeyRing, digest, new_key, parse_key


def named(ring: KeyRing, authorization: str | None, api_key: str | None) -> str | None:
    found = ring.who(authorization, api_key)
    return None if found is None else found.name


def test_a_key_opens_and_only_its_hash_is_kept() -> None:
    key, other = new_key(), new_key()
    ring = KeyRing(hashes=f"alice:{digest(key)},bob:{digest(other)}")
    assert named(ring, f"Bearer {key}", None) == "alice"
    assert named(ring, None, other) == "bob"
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
        (["alice:" + digest("")], "SHA-256 of nothing"),
        (["alice:" + "0" * 64 + ":root"], "entry 1"),
    ],
)
def test_a_bad_key_file_is_refused_without_quoting_it(lines: list[str], word: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n".join(lines))
    with pytest.raises(InputError, match=word) as caught:
        KeyRing(file=tmp_path / "keys")
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
    refused = client.private.post("/admin/reload", headers={"x-api-key": key})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert client.private.get("/admin/shadow", headers={"x-api-key": key}).status_code == 404


def test_an_admin_key_reloads_and_asks(start: Any, tmp_path: Path, picture: Any) -> None:
    key = new_key()
    (tmp_path / "keys").write_text(f"operator:{digest(key)}:admin\n")
    client = start(key_file=tmp_path / "keys")
    headers = {"x-api-key": key}
    assert client.private.post("/admin/reload", headers=headers).status_code == 200
    assert client.private.get("/admin/shadow", headers=headers).status_code == 404
    assert (
        client.post("/predict", content=picture(), headers={**headers, "content-type": "image/png"}).status_code == 200
    )


@pytest.mark.parametrize(
    "left", ["", "# nobody\n", None, "bob:" + "1" * 64, "a line that is no key", "alice:" + digest("")]
)
def test_a_key_that_is_no_longer_in_the_file_opens_nothing(left: str | None, start: Any, tmp_path: Path) -> None:
    """Emptied, deleted, damaged: the last key is revoked, too, and nobody gets in without one."""
    key, file = new_key(), tmp_path / "keys"
    file.write_text(f"alice:{digest(key)}\n")
    client = start(key_file=file)
    assert client.get("/openapi.json", headers={"x-api-key": key}).status_code == 200
    if left is None:
        file.unlink()
    else:
        file.write_text(left)
    with contextlib.suppress(ReloadRefused):
        client.parts.keys.reload()
    for headers in ({"x-api-key": key}, {}, {"x-api-key": ""}, {"authorization": "Bearer "}):
        assert client.get("/openapi.json", headers=headers).status_code == 401
    file.write_text(f"alice:{digest(key)}\n")
    client.parts.keys.reload()
    assert client.get("/openapi.json", headers={"x-api-key": key}).status_code == 200


def test_a_bad_line_is_refused_and_the_others_count(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    (tmp_path / "keys").write_text(f"alice:{digest(old)}\n")
    ring = KeyRing(file=tmp_path / "keys")
    (tmp_path / "keys").write_text(f"bob:{digest(new)}\ncarol:0000\n")
    with pytest.raises(ReloadRefused, match="entry 2"):
        ring.reload()
    assert (named(ring, None, new), named(ring, None, old)) == ("bob", None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_cannot_be_read_leaves_the_keys_as_they_are(tmp_path: Path) -> None:
    key, file = new_key(), tmp_path / "keys"
    file.write_text(f"alice:{digest(key)}\n")
    ring = KeyRing(file=file)
    file.chmod(0)
    with pytest.raises(ReloadRefused, match="cannot be read"):
        ring.reload()
    assert named(ring, None, key) == "alice"


def test_nothing_is_no_key() -> None:
    with pytest.raises(ValueError, match="SHA-256 of nothing"):
        parse_key("alice:" + hashlib.sha256().hexdigest())


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


def test_the_series_of_a_key_ends_with_the_key(start: Any, tmp_path: Path, picture: Any) -> None:
    keys = {name: new_key() for name in ("a", "b")}
    file = tmp_path / "keys"
    file.write_text("".join(f"{name}:{digest(key)}\n" for name, key in keys.items()))
    client = start(key_file=file)
    for key in keys.values():
        headers = {"content-type": "image/png", "x-api-key": key}
        assert client.post("/predict", content=picture(), headers=headers).status_code == 200
    assert client.sample('oodguard_key_requests_total{key="a",status="200"}') == 1
    file.write_text(f"b:{digest(keys['b'])}\n")
    client.parts.keys.reload()
    series = [line for line in client.parts.metrics.render().decode().splitlines() if "key_requests_total{" in line]
    assert series == ['oodguard_key_requests_total{key="b",status="200"} 1.0']

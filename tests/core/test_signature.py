"""Signed bundles: made by us and checked by OpenSSL, made by OpenSSL and checked by us."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from oodguard.core.errors import FormatError, InputError
from oodguard.core.signature import Trust, sign, signature_of


def openssl(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *map(str, arguments)], check=check, capture_output=True)


def key_pair(folder: Path, name: str, kind: str = "ed25519") -> tuple[Path, Path]:
    """A private and a public key, made by OpenSSL."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    openssl("genpkey", "-algorithm", kind, "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    return private, public


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.json"
    path.write_text('{"name": "photos"}')
    return path


def test_openssl_and_we_agree(file: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "own")
    sign(file, private)
    signature = signature_of(file)
    assert signature.stat().st_size == 64
    verify = ("pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", file, "-sigfile", signature)
    openssl(*verify)
    Trust.read(public).require(file, file.read_bytes())
    # The other way round; Ed25519 is deterministic.
    ours = signature.read_bytes()
    openssl("pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", file, "-out", signature)
    assert signature.read_bytes() == ours
    file.write_text(file.read_text() + " ")
    assert openssl(*verify, check=False).returncode != 0
    with pytest.raises(FormatError, match="or the file was changed"):
        Trust.read(public).require(file, file.read_bytes())


def test_any_of_several_keys_will_do_and_no_other(file: Path, tmp_path: Path) -> None:
    old, new, stranger = (key_pair(tmp_path, name) for name in ("old", "new", "stranger"))
    both = tmp_path / "both.pem"
    both.write_text("# while the key is replaced\n" + old[1].read_text() + new[1].read_text())
    trust = Trust.read(both)
    assert len(trust.keys) == 2
    for private, _ in (old, new):
        sign(file, private)
        trust.require(file, file.read_bytes())
    sign(file, stranger[0])
    with pytest.raises(FormatError, match="not one that"):
        trust.require(file, file.read_bytes())


@pytest.mark.parametrize("damage", [b"", b"\0" * 63, b"\0" * 64, b"\0" * 65, None])
def test_a_signature_that_is_none(file: Path, tmp_path: Path, damage: bytes | None) -> None:
    _, public = key_pair(tmp_path, "own")
    if damage is not None:
        signature_of(file).write_bytes(damage)
    with pytest.raises(FormatError, match="is not signed" if damage is None else "not one that"):
        Trust.read(public).require(file, file.read_bytes())


def test_keys_that_cannot_be_used_are_one_sentence(file: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "own")
    other, foreign = key_pair(tmp_path, "rsa", "RSA")
    locked = tmp_path / "locked.pem"
    openssl("pkey", "-in", private, "-aes256", "-passout", "pass:x", "-out", locked)
    (tmp_path / "empty").write_text("")
    (tmp_path / "long").write_text("x" * 2**17)
    for path, word in (
        (private, "private key"), (foreign, "not of Ed25519"), (tmp_path / "empty", "no public key"),
        (tmp_path / "long", "longer than"), (tmp_path / "absent", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            Trust.read(path)
    for path, word in (
        (public, "not a private key"), (other, "not a key of Ed25519"), (locked, "encrypted"),
        (tmp_path / "empty", "not a private key"), (tmp_path / "absent", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            sign(file, path)
    assert not signature_of(file).exists()

"""API keys: only their SHA-256 is ever stored, and comparing takes the same time whichever key is right."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem, InputError

PREFIX = "og_"
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]{1,64}):(?P<digest>[0-9a-f]{64})$")


def new_key() -> str:
    """A new random key of 256 bits; shown once, stored never."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What is stored of a key. A plain SHA-256 is enough for 256 random bits: there is nothing to guess."""
    return hashlib.sha256(key.encode()).hexdigest()


def parse_keys(entries: list[str], source: str) -> dict[str, str]:
    """`name:sha256` entries as `{name: digest}`. Raises `InputError`, without quoting what may be a key."""
    found: dict[str, str] = {}
    for number, entry in enumerate(entries, start=1):
        text = entry.strip()
        if not text or text.startswith("#"):
            continue
        match = ENTRY.match(text)
        if match is None:
            raise InputError(f"{source}, entry {number}: expected name:sha256 as printed by `oodguard key`")
        if match["name"] in found:
            raise InputError(f"{source}, entry {number}: the name {match['name']} repeats")
        found[match["name"]] = match["digest"]
    if not found:
        raise InputError(f"{source} holds no key; `oodguard key` makes one")
    return found


class KeyRing:
    """The keys that may call; several at once, so that one can be replaced without an outage."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = {name: bytes.fromhex(value) for name, value in keys.items()}

    @classmethod
    def load(cls, *, file: Path | None, hashes: str | None) -> KeyRing | None:
        """The keys of a file or of a comma-separated string; None when neither is given."""
        if file is not None:
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise EnvironmentProblem(f"{file} cannot be read ({error})") from None
            return cls(parse_keys(lines, str(file)))
        return cls(parse_keys(hashes.split(","), "key_hashes")) if hashes else None

    def who(self, authorization: str | None, api_key: str | None) -> str | None:
        """The name of the key in `Authorization: Bearer KEY` or `X-API-Key: KEY`; None when it is not one of ours."""
        scheme, _, token = (authorization or "").partition(" ")
        given = api_key or (token.strip() if scheme.lower() == "bearer" else "")
        shown = hashlib.sha256(given.encode("latin-1", "replace")).digest()
        found = None
        for name, expected in self._digests.items():
            if hmac.compare_digest(shown, expected):
                found = name
        return found

"""API keys: only their SHA-256 is ever stored, and comparing takes the same time whichever key is right."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem, InputError, OodguardError
from oodguard.server.errors import ReloadRefused
from oodguard.server.logs import server as log

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
    """The keys that may call, from a file or from a comma-separated string; without either, anyone may call.

    Several may be valid at once, so that one can be replaced without an outage. Raises `InputError` for a key that
    cannot be used, `EnvironmentProblem` for a file that cannot be read.
    """

    def __init__(self, *, file: Path | None = None, hashes: str | None = None) -> None:
        self._file, self._hashes = file, hashes
        self._digests = self._read()

    def _read(self) -> dict[str, bytes]:
        if self._file is not None:
            try:
                lines = self._file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise EnvironmentProblem(f"{self._file} cannot be read ({error})") from None
            keys = parse_keys(lines, str(self._file))
        else:
            keys = parse_keys(self._hashes.split(","), "key_hashes") if self._hashes else {}
        return {name: bytes.fromhex(value) for name, value in keys.items()}

    def reload(self) -> None:
        """Read the key file again. Raises `ReloadRefused`; the old keys stay valid then."""
        try:
            self._digests = self._read()
        except OodguardError as error:
            log.error("key file refused, the old keys stay valid: %s", error)
            raise ReloadRefused(str(error)) from None

    @property
    def needed(self) -> bool:
        """Whether a caller needs a key."""
        return bool(self._digests)

    def who(self, authorization: str | None, api_key: str | None) -> str | None:
        """The name of the key in `Authorization: Bearer KEY` or `X-API-Key: KEY`; None for one that is not valid."""
        scheme, _, token = (authorization or "").partition(" ")
        given = api_key or (token.strip() if scheme.lower() == "bearer" else "")
        shown = hashlib.sha256(given.encode("latin-1", "replace")).digest()
        found = None
        for name, expected in self._digests.items():
            if hmac.compare_digest(shown, expected):
                found = name
        return found

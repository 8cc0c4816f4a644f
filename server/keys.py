"""API keys: only their SHA-256 is ever stored, and comparing takes the same time whichever key is right."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem, FormatError, InputError
from oodguard.core.files import read_text
from oodguard.server.errors import ReloadRefused
from oodguard.server.logs import server as log

PREFIX = "og_"
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]{1,64}):(?P<digest>[0-9a-f]{64})(?::(?P<role>predict|admin))?$")
MAX_FILE_BYTES = 4 * 2**20


class Role(StrEnum):
    """What a key is for: asking about images, or also loading bundles and looking at the server."""

    PREDICT = "predict"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Key:
    """One caller's key."""

    name: str
    digest: bytes
    role: Role


def new_key() -> str:
    """A new random key of 256 bits; shown once, stored never."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What is stored of a key. A plain SHA-256 is enough for 256 random bits: there is nothing to guess."""
    return hashlib.sha256(key.encode()).hexdigest()


NO_KEY = digest("")


def parse_key(entry: str) -> Key:
    """The key of a `name:sha256` or `name:sha256:role` entry. Raises `ValueError`, which never quotes a key."""
    match = ENTRY.match(entry)
    if match is None:
        raise ValueError("expected name:sha256 or name:sha256:admin, as printed by `oodguard key`")
    if match["digest"] == NO_KEY:
        raise ValueError("this is the SHA-256 of nothing, which every caller without a key has")
    return Key(match["name"], bytes.fromhex(match["digest"]), Role(match["role"] or Role.PREDICT))


@dataclass(frozen=True)
class ParsedKeys:
    """The keys of some entries, and a sentence about each entry that holds none."""

    keys: tuple[Key, ...]
    faults: tuple[str, ...]


def parse_keys(entries: Sequence[str]) -> ParsedKeys:
    """Read `name:sha256` entries; empty ones and comments (`#`) are left out. Of a name that repeats no key counts."""
    found: dict[str, Key] = {}
    faults: list[str] = []
    repeated: set[str] = set()
    for number, entry in enumerate(entries, start=1):
        text = entry.strip()
        if not text or text.startswith("#"):
            continue
        try:
            key = parse_key(text)
        except ValueError as error:
            faults.append(f"entry {number}: {error}")
            continue
        if key.name in found:
            repeated.add(key.name)
            faults.append(f"entry {number}: the name {key.name} repeats")
        found[key.name] = key
    return ParsedKeys(tuple(key for key in found.values() if key.name not in repeated), tuple(faults))


class KeyRing:
    """The keys that may call, from a file or from a comma-separated string; without either, anyone may call.

    Several may be valid at once, so that one can be replaced without an outage. Raises `InputError` for an entry that
    cannot be used, or where there is no key at all, `EnvironmentProblem` for a file that cannot be read. `changed` is
    told the names of the keys that are valid after each `reload`.
    """

    def __init__(
        self,
        *,
        file: Path | None = None,
        hashes: str | None = None,
        changed: Callable[[Set[str]], None] = lambda names: None,
    ) -> None:
        self._file = file
        self._changed = changed
        self._source = str(file) if file is not None else "key_hashes"
        self.needed = file is not None or bool(hashes)
        self._keys: tuple[Key, ...] = ()
        if not self.needed:
            return
        found = parse_keys((hashes or "").split(",") if file is None else self._lines(file))
        if found.faults:
            raise InputError(f"{self._source}, {found.faults[0]}")
        if not found.keys:
            raise InputError(f"{self._source} holds no key; `oodguard key` makes one")
        self._keys = found.keys

    def _lines(self, file: Path) -> list[str]:
        try:
            return read_text(file, most=MAX_FILE_BYTES).splitlines()
        except (OSError, UnicodeDecodeError, FormatError) as error:
            raise EnvironmentProblem(f"{file} cannot be read ({error})") from None

    def reload(self) -> None:
        """Read the key file again. A key that is not in it any more is not valid any more, whatever else it holds.

        An empty or absent file has no keys: nobody may call. Raises `ReloadRefused` for a file with an entry that
        cannot be used, or that cannot be read; the other entries count, and in the latter case the old keys.
        """
        if self._file is None:
            return
        try:
            found = parse_keys(self._lines(self._file) if self._file.exists() else [])
        except (EnvironmentProblem, OSError) as error:
            log.error("key file refused, the old keys stay valid: %s", error)
            raise ReloadRefused(str(error)) from None
        self._keys = found.keys
        self._changed({key.name for key in found.keys})
        if not found.keys:
            log.error("%s holds no key: nobody may call", self._file)
        if found.faults:
            log.error("entries of the key file refused, the others count: %s, %s", self._file, "; ".join(found.faults))
            raise ReloadRefused(f"{self._file}, {found.faults[0]}; the other entries count")

    def who(self, authorization: str | None, api_key: str | None) -> Key | None:
        """The key in `Authorization: Bearer KEY` or `X-API-Key: KEY`; None for one that is not valid."""
        scheme, _, token = (authorization or "").partition(" ")
        given = api_key or (token.strip() if scheme.lower() == "bearer" else "")
        if not given:
            return None
        shown = hashlib.sha256(given.encode("latin-1", "replace")).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(shown, key.digest):
                found = key
        return found

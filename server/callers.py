"""Who may call a server: its API keys, read again while serving."""

from __future__ import annotations

from pathlib import Path

from oodguard.core.errors import OodguardError
from oodguard.server.errors import ReloadRefused
from oodguard.server.keys import KeyRing
from oodguard.server.logs import server as log


class Callers:
    """The keys of a file or of a comma-separated string; without either, anyone may call."""

    def __init__(self, *, file: Path | None, hashes: str | None) -> None:
        self._file, self._hashes = file, hashes
        self._ring = KeyRing.load(file=file, hashes=hashes)

    @property
    def need_keys(self) -> bool:
        """Whether a caller needs a key."""
        return self._ring is not None

    def who(self, authorization: str | None, api_key: str | None) -> str | None:
        """The name of the caller's key (see `KeyRing.who`); None for a key that is not valid."""
        return self._ring.who(authorization, api_key) if self._ring else None

    def reload(self) -> None:
        """Read the key file again. Raises `ReloadRefused`; the old keys stay valid then."""
        try:
            self._ring = KeyRing.load(file=self._file, hashes=self._hashes)
        except OodguardError as error:
            log.error("key file refused, the old keys stay valid: %s", error)
            raise ReloadRefused(str(error)) from None

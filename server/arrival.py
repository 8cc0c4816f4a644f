"""A new bundle in the folder of the old one: whether one is there, and whether all of it has arrived."""

from __future__ import annotations

import enum
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from oodguard.core.errors import FormatError
from oodguard.core.manifest import MANIFEST_FILE, FileRef, load_manifest
from oodguard.core.signature import signature_of

# Seconds without a change after which a bundle that is not whole will not become so by waiting.
PATIENCE = 10.0


class Arrival(enum.Enum):
    """What a look at the folder finds."""

    NOTHING_NEW = enum.auto()
    UNDER_WAY = enum.auto()
    COMPLETE = enum.auto()
    STUCK = enum.auto()


@dataclass(frozen=True)
class Look:
    """The manifest's hash; for each file that it lists, and for its signature, device, inode, size and time, or None
    where it is missing.
    """

    manifest: str
    files: tuple[tuple[int, ...] | None, ...]


class Doorstep:
    """Looks at a bundle folder again and again.

    ```python
    found = doorstep.look(served=model.fingerprint)
    ```

    A copy may take minutes, in any order of files. As long as something of it changes it is under way; it is complete
    when two looks find the same and every hash fits, and stuck when nothing has changed for `patience` seconds.
    """

    def __init__(self, bundle: Path, *, patience: float = PATIENCE) -> None:
        self._bundle = bundle
        self._patience = patience
        self._last: Look | None = None
        self._since = 0.0
        self._incomplete = False
        self._refused: Look | None = None

    def look(self, *, served: str | None) -> Arrival:
        """What is there; `served` is the fingerprint of the bundle in service."""
        now = time.monotonic()
        found = _look(self._bundle, served)
        if found is None or found == self._refused:
            self._last = None
            return Arrival.NOTHING_NEW
        if found != self._last:
            self._last, self._since, self._incomplete = found, now, False
            return Arrival.UNDER_WAY
        if not self._incomplete:
            try:
                load_manifest(self._bundle)
            except FormatError:
                self._incomplete = True
            else:
                return Arrival.COMPLETE
        return Arrival.STUCK if now - self._since >= self._patience else Arrival.UNDER_WAY

    def refuse(self) -> None:
        """Leave what the last look found alone until something of it changes."""
        self._refused = self._last


def fingerprint(path: Path) -> str | None:
    """The hash of a file's content; None for one that cannot be read. Opening it asks a network file system anew."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


class _Listing(BaseModel):
    files: tuple[FileRef, ...]


def _look(bundle: Path, served: str | None) -> Look | None:
    """None where there is no manifest, or that of the bundle in service."""
    try:
        text = (bundle / MANIFEST_FILE).read_bytes()
    except OSError:
        return None
    manifest = hashlib.sha256(text).hexdigest()
    if manifest == served:
        return None
    try:
        listed = _Listing.model_validate_json(text).files
    except ValidationError:
        listed = ()
    # The signature may come after the manifest, or be made anew.
    paths = (*(bundle / ref.path for ref in listed), signature_of(bundle / MANIFEST_FILE))
    return Look(manifest, tuple(map(_state, paths)))


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # a path of the listing that cannot be one
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

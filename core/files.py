"""Identity of files by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from oodguard.core.errors import FormatError


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_text(path: Path, *, most: int) -> str:
    """The text of a file of at most `most` bytes; raises `FormatError` for a longer one, `OSError` as opening does."""
    with path.open("rb") as stream:
        found = stream.read(most + 1)
    if len(found) > most:
        raise FormatError(f"{path} is longer than {most:,} bytes")
    return found.decode("utf-8")

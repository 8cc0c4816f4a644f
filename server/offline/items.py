"""One image to score: where its bytes are. A run's items are lines of a text file, so that none need stay in memory.

Codes of rows without a verdict, beside those of `ImageError`:

not_found         there is no such file
not_a_file        a folder, a device, a link inside an archive
cannot_read       the operating system refuses
unsafe_path       a member's name leads out of its archive
damaged_archive   the archive or the member is damaged, encrypted, or unpacks to far more than it should
engine_failed     the graph failed on this image
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Literal

from oodguard.core.errors import ImageError

# stream: a compressed tar, which can only be read from its beginning.
Kind = Literal["file", "zip", "tar", "stream"]


@dataclass(frozen=True, slots=True)
class Item:
    """An image of the source, or, with a `code`, what is already known to be unusable.

    offset: of the member's header in a zip, of its data in a tar. size: bytes of the member, uncompressed.
    """

    path: str
    kind: Kind = "file"
    member: str | None = None
    offset: int = 0
    size: int = 0
    code: str | None = None
    message: str | None = None

    @property
    def error(self) -> ImageError | None:
        """Why the image cannot be used, where that is known already."""
        return ImageError(self.code, self.message or "") if self.code else None

    def line(self) -> bytes:
        """The item as one line of JSON; names that are not text survive as lone surrogates."""
        return json.dumps(astuple(self), separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Item:
        """The item of a line that `line` wrote."""
        return cls(*json.loads(line))


def shown(name: str) -> str:
    """A file name as text that any program can read: bytes that are not UTF-8 appear as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

"""One image to score: where its bytes are. A run keeps its items as lines of a text file, not in memory."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Literal

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError

# stream: a compressed tar, which can only be read from its beginning. parquet: a file of images, one in each row.
Kind = Literal["file", "zip", "tar", "stream", "parquet"]
# These are read in order: going back begins anew.
IN_ORDER = ("stream", "parquet")


@dataclass(frozen=True, slots=True)
class Item:
    """An image of the source; with a `code`, an image that is known to be unusable.

    offset: of the member's header in a zip, of its data in a tar; the number of the row of a Parquet file. size:
    uncompressed bytes of the member; 0 of a row.
    """

    path: str
    kind: Kind = "file"
    member: str | None = None
    offset: int = 0
    size: int = 0
    code: Code | None = None
    message: str | None = None

    @property
    def error(self) -> ImageError | None:
        """The reason why the image cannot be used; None unless it is known already."""
        return ImageError(self.code, self.message or "") if self.code else None

    def line(self) -> bytes:
        """Write the item as one line of JSON; lone surrogates keep names that are not valid text."""
        return json.dumps(astuple(self), separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Item:
        """Read an item from a line that `line` wrote."""
        path, kind, member, offset, size, code, message = json.loads(line)
        return cls(path, kind, member, offset, size, code and Code(code), message)

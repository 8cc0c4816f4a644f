"""One image to score: where its bytes are. A run keeps its items as lines of a text file, not in memory."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Literal

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError

# stream: a compressed tar, which can only be read from its beginning.
Kind = Literal["file", "zip", "tar", "stream"]


@dataclass(frozen=True, slots=True)
class Item:
    """An image of the source; with a `code`, an image that is known to be unusable.

    offset: of the member's header in a zip, of its data in a tar. size: uncompressed bytes of the member.
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

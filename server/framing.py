"""Where the request that is being read ends, so that its parser is never given what comes behind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto

from oodguard.core.codes import Code
from oodguard.server.errors import RequestError

END_OF_HEAD = b"\r\n\r\n"
# As many bytes of a chunk's size line are read; what follows is an extension, which nobody needs.
SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class Awaited(Enum):
    """Which part of a request is awaited."""

    HEAD = auto()
    BODY = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    TRAILER = auto()
    UNKNOWN = auto()


class Framing:
    """Follows a connection's bytes, and bounds all of them that are no body.

    ```python
    end = framing.end(data, place)
    parser.feed_data(data[place:end])
    ```

    The parser decides what the bytes mean; this says how far it may read at once. A head, the trailer fields behind a
    body in chunks, and what frames the chunks beyond as many bytes as they hold, are at most `most` bytes each.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._place = Awaited.HEAD
        self._begun = b""
        self._left = 0
        self._head = self._frame = self._body = self._trailer = 0

    @property
    def in_head(self) -> bool:
        """Whether a head comes next, or the rest of one."""
        return self._place is Awaited.HEAD

    def begin(self) -> None:
        """Expect a head."""
        self._place, self._begun = Awaited.HEAD, b""
        self._head = self._frame = self._body = self._trailer = 0

    def body(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Expect the body that these headers announce; names are in lower case."""
        self._begun = b""
        self._place, self._left = Awaited.BODY, 0
        for name, value in headers:
            if name == b"transfer-encoding":
                self._place = Awaited.CHUNK_SIZE
                return
            if name == b"content-length":
                # The parser has refused what is no number, and a second one.
                self._left = int(value)

    def ends_within(self, size: int) -> bool:
        """Whether the body is known to end within so many bytes."""
        return self._place is Awaited.BODY and self._left <= size

    def end(self, data: bytes, start: int) -> int:
        """How far the parser may read on from `start`. Raises `RequestError` where a limit is passed."""
        if self._place is Awaited.BODY and self._left:
            end = min(len(data), start + self._left)
            self._left -= end - start
            return end
        if self._place is Awaited.HEAD:
            return self._end_of_head(data, start)
        if self._place is Awaited.CHUNK_SIZE:
            return self._end_of_size(data, start)
        if self._place is Awaited.CHUNK:
            return self._end_of_chunk(data, start)
        if self._place is Awaited.TRAILER:
            return self._end_of_trailer(data, start)
        return len(data)

    def _end_of_head(self, data: bytes, start: int) -> int:
        # The end may have begun in what was read before.
        place = (self._begun + data[start : start + 3]).find(END_OF_HEAD) if self._begun else -1
        if place >= 0:
            end = start + place + len(END_OF_HEAD) - len(self._begun)
        else:
            place = data.find(END_OF_HEAD, start)
            end = place + len(END_OF_HEAD) if place >= 0 else len(data)
        self._begun = b"" if place >= 0 else (self._begun + data[max(start, end - 3) : end])[-3:]
        self._head += end - start
        if self._head > self._most:
            raise RequestError(Code.HEADER_TOO_LARGE, f"the request head is larger than {self._most:,} bytes")
        return end

    def _end_of_size(self, data: bytes, start: int) -> int:
        end = data.find(b"\n", start) + 1 or len(data)
        line = self._begun + data[start:end]
        self._frame += end - start
        if self._frame > self._most + self._body:
            raise RequestError(
                Code.BAD_REQUEST, "the body comes in chunks that are smaller than what frames them; send larger ones"
            )
        if not line.endswith(b"\n"):
            self._begun = line
            return end
        self._begun = b""
        size = SIZE.match(line)
        if size is None:
            # The parser says what is wrong.
            self._place = Awaited.UNKNOWN
            return len(data)
        self._left = int(size[0], 16)
        if not self._left:
            self._place = Awaited.TRAILER
            return end
        self._body += self._left
        self._left += len(b"\r\n")
        self._place = Awaited.CHUNK
        return self._end_of_chunk(data, end)

    def _end_of_chunk(self, data: bytes, start: int) -> int:
        end = min(len(data), start + self._left)
        self._left -= end - start
        if not self._left:
            self._place = Awaited.CHUNK_SIZE
        return end

    def _end_of_trailer(self, data: bytes, start: int) -> int:
        end = data.find(b"\n", start) + 1 or len(data)
        self._trailer += end - start
        if self._trailer > self._most:
            raise RequestError(
                Code.HEADER_TOO_LARGE, f"the trailer fields behind the body are larger than {self._most:,} bytes"
            )
        return end

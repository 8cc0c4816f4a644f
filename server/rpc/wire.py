"""Protocol Buffers' wire format, as far as a message's fields must be counted before it is parsed.

Parsing makes an object of each field, so a message of empty fields would take forty times its size in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from oodguard.core.codes import Code
from oodguard.server.errors import RequestError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10


@dataclass(frozen=True)
class Layout:
    """Which fields of a message hold messages, by number, and which fields it may have; None: any."""

    nested: Mapping[int, Layout] = field(default_factory=dict)
    only: frozenset[int] | None = None


def require_few_fields(body: bytes, layout: Layout, *, most: int) -> None:
    """Raise `RequestError` for what is not in wire format, or has more than `most` fields, nested ones included."""
    _Scan(body, most).message(0, len(body), layout)


class _Scan:
    def __init__(self, body: bytes, most: int) -> None:
        self._body = body
        self._most = most
        self._seen = 0

    def message(self, place: int, end: int, layout: Layout) -> None:
        while place < end:
            key, place = self._varint(place, end)
            number, kind = key >> 3, key & 7
            self._count(number, layout)
            if kind == VARINT:
                _, place = self._varint(place, end)
            elif kind == FIXED64:
                place += 8
            elif kind == FIXED32:
                place += 4
            elif kind == LENGTH:
                size, place = self._varint(place, end)
                if place + size > end:
                    raise _torn()
                if number in layout.nested:
                    self.message(place, place + size, layout.nested[number])
                place += size
            else:
                raise _torn()
        if place != end:
            raise _torn()

    def _count(self, number: int, layout: Layout) -> None:
        if layout.only is not None and number not in layout.only:
            raise RequestError(Code.BAD_BODY, "typed contents are bytes_contents (images) or uint_contents (pixels)")
        self._seen += 1
        if self._seen > self._most:
            raise RequestError(
                Code.BAD_BODY, f"the message has more than {self._most} fields; send tensors in raw_input_contents"
            )

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(LONGEST_VARINT):
            if place >= end:
                raise _torn()
            byte = self._body[place]
            place += 1
            value |= (byte & 0x7F) << (7 * shift)
            if byte < 0x80:
                return value, place
        raise _torn()


def _torn() -> RequestError:
    return RequestError(Code.BAD_BODY, "the message is not in Protocol Buffers' wire format, or is cut off")

"""The tags of a TIFF's first page that say what its numbers are, read without looking at more than these."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Tags (TIFF 6.0).
BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, SAMPLES = 258, 259, 262, 270, 277
LOWEST, HIGHEST, PLANAR, COLOUR_MAP, EXTRA = 280, 281, 284, 320, 338
SAMPLE_FORMAT, S_LOWEST, S_HIGHEST, SUBSAMPLING = 339, 340, 341, 530
_WANTED = frozenset(
    {BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, SAMPLES, LOWEST, HIGHEST, PLANAR, COLOUR_MAP, EXTRA, SAMPLE_FORMAT}
    | {S_LOWEST, S_HIGHEST, SUBSAMPLING}
)
# Of one tag: a colour map has the most. Text: how far channels may be named.
MOST_NUMBERS, MOST_TEXT = 768, 1 << 16
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q", 17: "q"}
_TEXT = 2


@dataclass(frozen=True, slots=True)
class TiffTags:
    """numbers: of each tag that was wanted and is there. text: its description. photometric_at: where that one is."""

    numbers: Mapping[int, tuple[float, ...]]
    text: str = ""
    photometric_at: int | None = field(default=None, compare=False)

    @classmethod
    def read(cls, data: bytes) -> TiffTags | None:
        """The tags of a file; None for one that is no TIFF, or ends within them."""
        if data[:2] not in (b"II", b"MM"):
            return None
        try:
            return _read(data)
        except struct.error:
            return None

    @classmethod
    def of(cls, given: Mapping[int, Any]) -> TiffTags:
        """The tags as Pillow gives them. Raises `ValueError` or `TypeError` for those that are no numbers."""
        numbers = {}
        for tag in _WANTED - {DESCRIPTION}:
            if tag in given:
                value = given[tag] if isinstance(given[tag], tuple) else (given[tag],)
                numbers[tag] = tuple(map(float, value[:MOST_NUMBERS]))
        return cls(numbers, str(given.get(DESCRIPTION, ""))[:MOST_TEXT])

    def whole(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The numbers of a tag."""
        return tuple(map(int, self.numbers.get(tag, default)))

    def first(self, tag: int, default: int) -> int:
        """The first number of a tag."""
        return next(iter(self.whole(tag)), default)


def _read(data: bytes) -> TiffTags:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    offset, entry, inline = ("Q", struct.Struct(order + "HHQ"), 8) if big else ("I", struct.Struct(order + "HHI"), 4)
    (place,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
    first, size = place + (8 if big else 2), entry.size + inline
    numbers: dict[int, tuple[float, ...]] = {}
    text, photometric_at = "", None
    for start in range(first, min(first + size * count, len(data)), size):
        tag, kind, values = entry.unpack_from(data, start)
        letter = "s" if kind == _TEXT else _TYPES.get(kind)
        if tag not in _WANTED or letter is None or not values:
            continue
        at = start + entry.size
        if values * struct.calcsize(letter) > inline:
            (at,) = struct.unpack_from(order + offset, data, at)
        if letter == "s":
            text = data[at : at + min(values, MOST_TEXT)].decode("latin-1") if tag == DESCRIPTION else text
            continue
        numbers[tag] = struct.unpack_from(f"{order}{min(values, MOST_NUMBERS)}{letter}", data, at)
        photometric_at = at if tag == PHOTOMETRIC else photometric_at
    return TiffTags(numbers, text, photometric_at)

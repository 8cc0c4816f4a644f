"""Which number of a file is black and which is white: THE rule, and the grey levels that follow from it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError

Grey = npt.NDArray[np.uint8]
Numbers = npt.NDArray[Any]

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
WIDE = (*SIXTEEN_BIT, "I", "F")
WHITE_16 = 65_535
# What Pillow multiplies the numbers of a PNG of 2 or 4 bits by, and not the transparent one among them.
_SPREAD = {"L;2": 85, "L;4": 17}
_CHUNK = struct.Struct(">I4s")
_BEFORE_SBIT_ENDS = (b"PLTE", b"IDAT")


def unread(reason: str) -> ImageError:
    """The refusal of an image whose numbers cannot be read right."""
    return ImageError(Code.UNSUPPORTED_TYPE, reason)


@dataclass(frozen=True, slots=True)
class Levels:
    """What the numbers of a picture of one channel mean.

    black, white: the numbers that are 0 and 255; white may be the smaller. clear: the number that is transparent.
    unsigned: 32 bits are read as unsigned. significant: how many bits of 16 the file says that it uses.
    """

    black: float
    white: float
    clear: int | None = None
    unsigned: bool = False
    significant: int | None = None

    def grey(self, numbers: Numbers) -> Grey:
        """`255 (number - black) / (white - black)`, rounded. Raises `ImageError` for numbers beyond black and white."""
        if self.unsigned:
            numbers = numbers.view(np.uint32)
        if self.significant is not None:
            _require_scaled(numbers, self.significant)
        # What is no number or overflows is refused below.
        with np.errstate(all="ignore"):
            scaled: Numbers = numbers.astype(np.float64 if numbers.dtype.itemsize == 4 else np.float32)
            # In place: a band of a large picture has a million of them.
            scaled -= self.black
            scaled *= 255 / (self.white - self.black)
        least, most = float(scaled.min()), float(scaled.max())
        # NaN fails every comparison.
        if not (least >= -0.5 and most <= 255.5):
            raise unread(
                f"the image holds numbers beyond black ({self.black:g}) and white ({self.white:g}); "
                "scale them to that range, or save the image with 8 or 16 bits"
            )
        np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled)
        found: Grey = scaled.astype(np.uint8)
        if self.clear is not None:
            found[numbers == self.clear] = 255
        return found


def _require_scaled(numbers: Numbers, significant: int) -> None:
    """Raise `ImageError` where the low bits hold what neither zeros nor a scaling up from so few bits would."""
    low = 16 - significant
    few = numbers >> low
    scaled = few.astype(np.float64) * (WHITE_16 / ((1 << significant) - 1))
    if not ((few << low == numbers) | (np.abs(numbers - scaled) <= 1)).all():
        raise unread(
            f"the PNG says that {significant} of its 16 bits are significant and was not scaled to 16 bits, so its "
            "white is unknown; scale its numbers to 0 to 65535, or leave out the sBIT chunk"
        )


def levels_in_memory(image: Image.Image) -> Levels | None:
    """The levels that follow from the type of a picture alone; None for 8 bits. Raises `ImageError`."""
    if image.mode in SIXTEEN_BIT:
        return Levels(0, WHITE_16)
    if image.mode == "F":
        return Levels(0, 1)
    if image.mode == "I":
        # Pillow scales every PGM of more than 8 bits to 16.
        if image.format == "PPM":
            return Levels(0, WHITE_16)
        raise unread(
            "the image holds 32-bit whole numbers, of which nothing says which is white; scale them to 8 or 16 bits"
        )
    return None


def levels_of_png(image: Image.Image, data: bytes) -> Levels | None:
    """The levels of an opened PNG, before it is loaded; its transparent grey is put right. Raises `ImageError`."""
    clear = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    rawmode = tiles[0].args if tiles else None
    if image.mode == "L" and isinstance(clear, int) and rawmode in _SPREAD:
        image.info["transparency"] = clear * _SPREAD[str(rawmode)]
    if image.mode == "RGB" and isinstance(clear, tuple) and (rawmode == "RGB;16B" or max(clear) > 255):
        raise unread("the PNG holds 16-bit colours of which one is transparent; save it with an alpha channel")
    if image.mode not in SIXTEEN_BIT:
        return levels_in_memory(image)
    return Levels(0, WHITE_16, clear=clear if isinstance(clear, int) else None, significant=_significant(data))


def _significant(data: bytes) -> int | None:
    """The significant bits of a grey PNG of 16 bits, where they are fewer."""
    place = 8
    while place + 8 <= len(data):
        length, kind = _CHUNK.unpack_from(data, place)
        if kind in _BEFORE_SBIT_ENDS:
            break
        if kind == b"sBIT" and length == 1 and 0 < data[place + 8] < 16:
            return data[place + 8]
        place += 12 + length
    return None

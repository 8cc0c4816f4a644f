"""What the tags of a TIFF say about its numbers: which are white, and what is not read right and so refused."""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImagePalette, UnidentifiedImageError

from oodguard.core.levels import Levels, levels_in_memory, unread
from oodguard.core.tiff_tags import (
    BITS,
    COLOUR_MAP,
    COMPRESSION,
    EXTRA,
    HIGHEST,
    LOWEST,
    PHOTOMETRIC,
    PLANAR,
    S_HIGHEST,
    S_LOWEST,
    SAMPLE_FORMAT,
    SAMPLES,
    SUBSAMPLING,
    TiffTags,
)

MOST_SAMPLES = 64
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
_PHOTOMETRIC = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab"}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_FORMATS = {UNSIGNED: "unsigned", SIGNED: "signed", FLOAT: "floating-point"}
# Of OME's description: XML quotes an attribute with either.
_SIZE_C = re.compile(r"""\bSizeC\s*=\s*["'](\d+)["']""")
_SAVE = "save it as grey or RGB of 8 or 16 bits"
# libtiff gives the machine's order of bytes, which Pillow knows of 16 unsigned bits alone.
_NATIVE = {
    f"{kind}{order}{sort}": f"{kind}N{sort}"
    for kind, sort in (("F;32", "F"), ("I;16", "S"), ("I;32", "S"))
    for order in ("", "B")
}
# Under this name an image says that it is decoded as `_decode_as` has it.
_PUT_RIGHT, _SET = "oodguard.put-right", object()


@dataclass(frozen=True, slots=True)
class TiffKind:
    """How a TIFF stores its first page. lowest, highest: the numbers that its tags name as black and as white."""

    photometric: int
    bits: tuple[int, ...]
    sample_format: int
    extra: tuple[int, ...]
    planar: bool
    compressed: bool
    subsampling: tuple[int, ...]
    lowest: float | None
    highest: float | None
    channels: int

    @classmethod
    def of(cls, tags: TiffTags) -> TiffKind:
        """The kind that the tags of a page describe, with the defaults of TIFF 6.0."""
        # Pillow reads no more than six.
        samples = min(tags.first(SAMPLES, 1), MOST_SAMPLES)
        bits = tags.whole(BITS, (1,))
        lowest, highest = _range(tags, bits[0])
        return cls(
            photometric=tags.first(PHOTOMETRIC, WHITE_IS_ZERO),
            bits=bits * samples if len(bits) == 1 else bits[:samples],
            sample_format=max(tags.whole(SAMPLE_FORMAT, (UNSIGNED,))),
            extra=tags.whole(EXTRA),
            planar=tags.first(PLANAR, 1) == 2,
            compressed=tags.first(COMPRESSION, 1) != 1,
            subsampling=tags.whole(SUBSAMPLING, (2, 2)),
            lowest=lowest,
            highest=highest,
            channels=_channels(tags.text),
        )

    @property
    def is_one_wide_channel(self) -> bool:
        """Whether it is one channel whose numbers Pillow does not bring to 8 bits."""
        return self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) and len(self.bits) == 1 and self.bits[0] > 8

    @property
    def is_signed_or_long(self) -> bool:
        """Whether it is one wide channel of anything but 12 or 16 unsigned bits."""
        return self.is_one_wide_channel and (self.sample_format != UNSIGNED or self.bits[0] > 16)

    def __str__(self) -> str:
        """What it holds, in words."""
        colours = _PHOTOMETRIC.get(self.photometric, f"photometric {self.photometric}")
        depth = "/".join(map(str, sorted(set(self.bits))))
        count = f"{len(self.bits)} channels" if len(self.bits) > 1 else "one channel"
        layout = ", separate planes" if self.planar else ""
        return f"{count} of {depth}-bit {_FORMATS.get(self.sample_format, 'undefined')} numbers ({colours}{layout})"

    def levels(self) -> Levels | None:
        """Which number is white, where Pillow gives the numbers as they are. Raises `ImageError`: which is not read."""
        if self.channels > len(self.bits):
            raise unread(
                f"the TIFF holds {self.channels} channels on pages of their own, and one page is not the picture; save "
                "it as one page of grey or RGB"
            )
        if self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) and len(self.bits) > 2:
            raise unread(
                f"the TIFF holds {self} of which nothing says which are red, green and blue; save three of them as RGB"
            )
        if self._is_misread:
            raise unread(f"the TIFF holds {self}, which is not read; {_SAVE}")
        if self.is_one_wide_channel:
            return self._wide()
        if max(self.bits) > 8 and self.highest is not None and (self.lowest, self.highest) != (0, 65_535):
            raise unread(
                f"the TIFF says that {self.highest:g} is white, and colours of 16 bits are read with white at 65535; "
                "scale its numbers to 0 to 65535"
            )
        return None

    @property
    def _is_misread(self) -> bool:
        """Whether Pillow opens it and gives other pixels than it holds."""
        return (
            (self.sample_format != UNSIGNED and not self.is_one_wide_channel)
            or (self.planar and len(self.bits) > 1 and self.photometric not in (RGB, CMYK, YCBCR))
            or (self.planar and not self.compressed and self.photometric == RGB and not self._is_rgb_or_rgba)
            or (self.planar and not self.compressed and self.photometric == CMYK and self.bits != (8,) * 4)
            or (self.photometric == YCBCR and not self.compressed and (self.planar or self.subsampling != (1, 1)))
            or self.photometric == LAB
        )

    @property
    def _is_rgb_or_rgba(self) -> bool:
        return (len(self.bits), self.extra) in ((3, ()), (4, (2,)))

    def _wide(self) -> Levels:
        bits, lowest, highest = self.bits[0], self.lowest, self.highest
        if lowest is None or highest is None:
            if self.sample_format == FLOAT:
                lowest, highest = 0.0, 1.0
            elif self.sample_format == UNSIGNED and bits <= 16:
                lowest, highest = 0, (1 << bits) - 1
            else:
                raise unread(
                    f"the TIFF holds {self} and does not say which is white; {_SAVE}, or name black and white in the "
                    "tags SMinSampleValue and SMaxSampleValue"
                )
        if self.photometric == WHITE_IS_ZERO:
            lowest, highest = highest, lowest
        return Levels(lowest, highest, unsigned=self.sample_format == UNSIGNED and bits == 32)


def _range(tags: TiffTags, bits: int) -> tuple[float | None, float | None]:
    """The numbers that are black and white by the tags; None where they say nothing.

    SMinSampleValue and SMaxSampleValue are a range. MinSampleValue and MaxSampleValue are statistics (TIFF 6.0, page
    37), unless they are a range of whole bits, which is how cameras say how many of 16 they use.
    """
    numbers = tags.numbers
    if S_HIGHEST in numbers:
        lowest, highest = min(numbers.get(S_LOWEST, (0,))), max(numbers[S_HIGHEST])
        if lowest < highest and math.isfinite(highest - lowest):
            return lowest, highest
    if HIGHEST in numbers:
        lowest, highest = min(numbers.get(LOWEST, (0,))), max(numbers[HIGHEST])
        if lowest == 0 and highest in {(1 << n) - 1 for n in range(8, min(bits, 32) + 1)}:
            return lowest, highest
    return None, None


def _channels(description: str) -> int:
    """How many channels OME's or ImageJ's description names, on whatever pages they are; 1 where it names none."""
    if description.startswith("ImageJ="):
        found = [line.removeprefix("channels=") for line in description.split("\n") if line.startswith("channels=")]
    elif "<OME" in description:
        found = _SIZE_C.findall(description)
    else:
        found = []
    return int(found[0]) if found and found[0].isdecimal() and len(found[0]) < 6 else 1


def levels_of_tiff(image: Image.Image, data: bytes) -> Levels | None:
    """The levels of an opened TIFF; its planes and its palette are put right first. Raises `ImageError`.

    data: the file, where it is known: `for_pillow` has perhaps changed what the image was opened from.
    """
    given = getattr(image, "tag_v2", None)
    if given is None:
        return levels_in_memory(image)
    tags = TiffTags.read(data) or TiffTags.of(given)
    kind = TiffKind.of(tags)
    levels = kind.levels()
    colours = tags.whole(COLOUR_MAP)
    if kind.photometric == PALETTE and colours and max(colours) < 256:
        # libtiff takes such a map for one of 8 bits, and so does everything that is built on it.
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    little = given.prefix == b"II"
    if kind.planar and not kind.compressed and len(kind.bits) > 1 and max(kind.bits) == 16:
        _decode_as(image, lambda rawmode: rawmode + (";16L" if little else ";16B"))
    elif kind.compressed and kind.is_signed_or_long and little != (sys.byteorder == "little"):
        _decode_as(image, lambda rawmode: _NATIVE.get(rawmode, rawmode))
    return levels


def _decode_as(image: Any, right: Callable[[str], str]) -> None:
    """Have the decoder take numbers out of the file as they were put in, where Pillow mistakes them for others."""
    if image.info.get(_PUT_RIGHT) is _SET:
        return
    if not image.tile:
        raise unread(
            "the TIFF is of a kind that Pillow decodes wrongly, and was decoded already; give the file instead"
        )
    image.tile = [tile._replace(args=(right(tile.args[0]), *tile.args[1:])) for tile in image.tile]
    image.info[_PUT_RIGHT] = _SET


def for_pillow(data: bytes) -> bytes:
    """A TIFF of one wide channel as if its black were 0: Pillow reads fewer whose white is. Others as they are."""
    tags = TiffTags.read(data)
    if tags is None or tags.photometric_at is None:
        return data
    kind = TiffKind.of(tags)
    if kind.photometric != WHITE_IS_ZERO or not kind.is_one_wide_channel:
        return data
    changed = bytearray(data)
    struct.pack_into("<H" if data[:2] == b"II" else ">H", changed, tags.photometric_at, BLACK_IS_ZERO)
    return bytes(changed)


@contextmanager
def tiff_refusals(data: bytes) -> Iterator[None]:
    """What Pillow does not identify in a TIFF, in words."""
    try:
        yield
    except UnidentifiedImageError:
        tags = TiffTags.read(data)
        if tags is None:
            raise
        kind = TiffKind.of(tags)
        kind.levels()
        raise unread(f"the TIFF holds {kind}, which is not read; {_SAVE}") from None

"""A decoded picture, turned upright and made RGB in bands of rows: a large one never exists twice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image, ImageOps

from oodguard.core.levels import Levels
from oodguard.core.rgb import as_rgb

Box = tuple[float, float, float, float]

# Pixels of a band.
BAND = 1 << 16
# Up to so many pixels a picture is turned and converted as a whole, which takes less time.
WHOLE = 1 << 20
# A narrower picture would become larger than it is when its rows are resized first.
THIN = 1024
# Orientations (EXIF): how a picture is put upright; which are stored lying on their side, which from their last line.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = (5, 6, 7, 8)
_FROM_THE_RIGHT, _FROM_THE_BOTTOM = (2, 3, 6, 7), (3, 4, 7, 8)
# Pixels on either side that a filter looks at, for each pixel of its output.
_SUPPORT = 3


def fits_bands(width: int, height: int) -> bool:
    """Whether a picture of this size is large enough to be taken in bands, and broad enough."""
    return width * height > WHOLE and min(width, height) >= THIN


def orientation_of(image: Image.Image) -> int:
    """How a picture is stored (EXIF); 1 is upright."""
    found: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    return found


def made_upright(image: Image.Image, levels: Levels | None = None) -> Image.Image:
    """A decoded picture as upright RGB; itself where it is."""
    # In place, because it would otherwise copy what is upright already.
    ImageOps.exif_transpose(image, in_place=True)
    return as_rgb(image, levels)


def to_resize(image: Image.Image, levels: Levels | None = None) -> Image.Image | Bands:
    """A decoded picture as upright RGB that will be resized; a large one in bands."""
    orientation = orientation_of(image)
    as_it_is = image.mode == "RGB" and not image.has_transparency_data and orientation not in TURNS
    if as_it_is or not fits_bands(*image.size):
        return made_upright(image, levels)
    return Bands(image, orientation=orientation, levels=levels)


class Bands:
    """A decoded picture of any mode and orientation (EXIF), as upright RGB. Its rows are made when they are needed.

    ```python
    small = Bands(image, orientation=6).resize((224, 224), Image.Resampling.BICUBIC, box=(0, 0, 4000, 3000))
    ```

    `resize` gives what Pillow gives for the whole picture: Pillow, too, resizes one direction first, each row or column
    by itself.
    """

    def __init__(self, image: Image.Image, *, orientation: int = 1, levels: Levels | None = None) -> None:
        self._image = image
        self._levels = levels
        self._orientation = orientation if orientation in TURNS else 1
        self.size = image.size[::-1] if self._orientation in LYING else image.size
        self.width, self.height = self.size
        self.info: dict[str | tuple[int, int], Any] = {}

    def resize(self, size: tuple[int, int], resample: Image.Resampling, *, box: Box) -> Image.Image:
        """A box of the upright picture at another size."""
        (width, height), (left, top, right, bottom) = size, box
        # As Pillow decides it.
        if 0 < self.height - height > 2 * (self.width - width):
            first, last = _seen(left, right, self.width, width)
            half = Image.new("RGB", (last - first, height))
            for start, stop in _cut(first, last, self.height):
                band = self._part((start, 0, stop, self.height))
                half.paste(
                    band.resize((stop - start, height), resample, (0, top, stop - start, bottom)), (start - first, 0)
                )
            return half.resize(size, resample, (left - first, 0, right - first, height))
        first, last = _seen(top, bottom, self.height, height)
        half = Image.new("RGB", (width, last - first))
        for start, stop in _cut(first, last, self.width):
            band = self._part((0, start, self.width, stop))
            half.paste(band.resize((width, stop - start), resample, (left, 0, right, stop - start)), (0, start - first))
        return half.resize(size, resample, (0, top - first, width, bottom - first))

    def _part(self, box: tuple[int, int, int, int]) -> Image.Image:
        """A part of the upright picture, as RGB."""
        left, top, right, bottom = box
        if self._orientation in _FROM_THE_RIGHT:
            left, right = self.width - right, self.width - left
        if self._orientation in _FROM_THE_BOTTOM:
            top, bottom = self.height - bottom, self.height - top
        lying = self._orientation in LYING
        part = self._image.crop((top, left, bottom, right) if lying else (left, top, right, bottom))
        turn = TURNS.get(self._orientation)
        return as_rgb(part if turn is None else part.transpose(turn), self._levels)


def _seen(start: float, stop: float, side: int, size: int) -> tuple[int, int]:
    """The lines that any filter looks at, of `side`, to make `size` lines from those between start and stop."""
    reach = math.ceil(_SUPPORT * max(1.0, (stop - start) / size)) + 1
    return max(0, math.floor(start) - reach), min(side, math.ceil(stop) + reach)


def _cut(first: int, last: int, length: int) -> Iterator[tuple[int, int]]:
    """Lines of this length, as many at once as a band has."""
    lines = max(1, BAND // length)
    for start in range(first, last, lines):
        yield start, min(start + lines, last)

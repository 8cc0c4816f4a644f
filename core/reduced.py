"""Decoding a JPEG at a half, a quarter or an eighth of its size, where the pixels that are wanted stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from oodguard.core.bands import LYING, Box, orientation_of

if TYPE_CHECKING:
    from oodguard.core.preprocessing import Preprocessing

# By how much the final resize must still shrink what was decoded at 1/8, 1/4 or 1/2, so that what is left of the
# decoder's own filter, which averages squares, is hardly seen. An eighth has hardly another filter before it.
REDUCED_MARGINS = {8: 2.2, 4: 2.0, 2: 2.0}
# Mean difference of a photo's pixels from those of the full decode, in grey levels.
REDUCED_TOLERANCE = 1.0
# These take hard-edged parts of a picture: other parts, where it is decoded at a reduced scale.
_HARD_EDGED = ("nearest", "box")
# Pillow calls a JPEG with further pictures behind it by another name.
_JPEG = ("JPEG", "MPO")
# Chroma as large as luma, or half as wide and as high.
_SAMPLINGS = {(1, 1), (2, 2)}


def reduce(image: Image.Image, preprocessing: Preprocessing) -> tuple[float, float] | None:
    """Have the decoder reduce a JPEG where that keeps `REDUCED_TOLERANCE`; the picture's true size then, in pixels.

    The size is a fraction where the reduction does not divide the sides: the last row and column are then larger than
    the picture. Chroma at half or a quarter of the width alone (4:2:2, 4:4:0, 4:1:1) comes out in blocks: such files
    are not reduced.
    """
    if not preprocessing.reduced_jpeg or preprocessing.interpolation in _HARD_EDGED or image.format not in _JPEG:
        return None
    if not {tuple(layer[1:3]) for layer in getattr(image, "layer", ())} <= _SAMPLINGS:
        return None
    width, height = image.size
    lying = orientation_of(image) in LYING
    scaling = preprocessing.scaling(*((height, width) if lying else (width, height)))
    scale = next((scale for scale, margin in REDUCED_MARGINS.items() if scale * margin * scaling <= 1), None)
    if scale is None:
        return None
    # The decoder drops high frequencies for less than the price of keeping them.
    drafted = image.draft(None, (max(1, width // scale), max(1, height // scale)))
    return None if drafted is None else drafted[1][2:]


def turned(extent: tuple[float, float], size: tuple[int, int], orientation: int) -> Box:
    """Where a picture of `extent`, at the top left of an image of `size`, lies once its EXIF orientation is applied."""
    (w, h), (width, height) = extent, size
    x = (width - w, float(width)) if orientation in (2, 3, 7, 8) else (0.0, w)
    y = (height - h, float(height)) if orientation in (3, 4, 6, 7) else (0.0, h)
    if orientation in LYING:
        x, y = y, x
    return x[0], y[0], x[1], y[1]

"""A decoded picture of any mode as RGB, without holding much more than both."""

from __future__ import annotations

import numpy as np
from PIL import Image

from oodguard.core.levels import WIDE, Levels, levels_in_memory, levels_of_png, unread
from oodguard.core.tiff import levels_of_tiff

# Pixels that are converted at once.
BAND = 1 << 20


def levels_of(image: Image.Image, data: bytes = b"") -> Levels | None:
    """Which number is white in a picture, before it is loaded; None where Pillow gives 8 bits. Raises `ImageError`.

    data: the file, where it is known, which says more than what was opened from it.
    """
    if image.format == "TIFF":
        return levels_of_tiff(image, data)
    if image.format == "PNG":
        return levels_of_png(image, data)
    return levels_in_memory(image)


def as_rgb(image: Image.Image, levels: Levels | None = None) -> Image.Image:
    """The picture as RGB; itself where it is. Raises what Pillow does, and `ImageError` for what cannot be read right.

    Alpha is laid over white, wide numbers become grey by their `levels`, other modes are converted as Pillow does.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in WIDE and levels is None:
        levels = levels_in_memory(image)
    width, height = image.size
    rows = max(1, BAND // width)
    if rows >= height:
        return _band_as_rgb(image, levels)
    # In bands, so that what a conversion holds for each pixel is held for a few of them.
    found = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        found.paste(_band_as_rgb(band, levels), (0, top))
    return found


def _band_as_rgb(image: Image.Image, levels: Levels | None) -> Image.Image:
    if levels is not None:
        return Image.fromarray(levels.grey(np.asarray(image))).convert("RGB")
    if image.mode == "LAB":
        raise unread("CIELab colours are not read; save the image as RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")

"""A decoded picture of any mode as RGB, without holding much more than both."""

from __future__ import annotations

import numpy as np
from PIL import Image

# Pixels that are converted at once.
BAND = 1 << 20
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture as RGB; itself where it is. Raises what Pillow does.

    Alpha is laid over white, 16-bit greyscale is scaled to 8 bits, other modes are converted as Pillow converts them.
    """
    if image.mode == "RGB":
        return image
    width, height = image.size
    rows = max(1, BAND // width)
    if rows >= height:
        return _band_as_rgb(image)
    # In bands, so that what a conversion holds for each pixel is held for a few of them.
    found = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        found.paste(_band_as_rgb(band), (0, top))
    return found


def _band_as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT or image.mode == "I":
        # Pillow clips 16-bit grey to 255 instead of scaling it.
        grey = np.clip(np.asarray(image) // 257, 0, 255).astype(np.uint8)
        return Image.fromarray(grey, "L").convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.clip(np.nan_to_num(np.asarray(image)), 0, 255).astype(np.uint8), "L").convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")

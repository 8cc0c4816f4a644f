"""Small copies of images for a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

SIDE = 160
QUALITY = 70


def thumbnail(image: Image.Image, side: int = SIDE) -> str:
    """An RGB image, shrunk to fit `side` x `side`, as a JPEG `data:` URI of a few kB.

    Pixels only: what a camera wrote beside them (place, time, owner) is left behind.
    """
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.info = {}
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

"""Small copies of images for a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

SIDE = 160
QUALITY = 70


def thumbnail(image: Image.Image) -> str:
    """An RGB image, shrunk to fit `SIDE` x `SIDE` pixels, as a JPEG `data:` URI of a few kB.

    The copy holds no metadata, such as the place, time and owner that a camera records.
    """
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.info = {}
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")

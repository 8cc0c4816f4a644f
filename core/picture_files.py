"""Opens an encoded image with the reader of its format, if that format is read at all."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from oodguard.core.apart import PictureApart
from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.core.formats import FORMATS, format_of, unread


def open_picture(data: bytes, allowed: Sequence[str], *, most_work: int) -> Image.Image:
    """Open an image of one of the `allowed` formats; nothing is decoded before its `load`.

    Raises `ImageError` for a format that is not read, with what reads it; what Pillow does for bytes of no format.
    """
    kind = format_of(data)
    why = unread(kind, allowed) if kind is not None else None
    if why is not None:
        raise ImageError(Code.UNSUPPORTED_TYPE, why)
    if kind is not None and kind.apart:
        return PictureApart(io.BytesIO(data), kind, most_work=most_work)
    ours = [one.name for one in FORMATS if one.name in allowed and not one.apart]
    return Image.open(io.BytesIO(data), formats=ours)

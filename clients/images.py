"""Images in any form that callers hold, as the bytes that the client sends."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.core.images import ImageLike, opened
from oodguard.core.text import readable

FormPart = tuple[str, bytes, str]


def content_of(image: ImageLike, index: int) -> tuple[str, bytes | Image.Image]:
    """The file name of image number `index`, and its encoded bytes or its pixels.

    Raises `ImageError` for a file that cannot be read and for what is not an image.
    """
    if isinstance(image, bytes):
        return f"{index}", image
    if isinstance(image, str | Path):
        path = Path(image)
        try:
            return readable(path.name), path.read_bytes()
        except OSError as error:
            code = Code.NOT_FOUND if isinstance(error, FileNotFoundError) else Code.CANNOT_READ
            raise ImageError(code, f"{image} cannot be read ({error.strerror})") from None
    return f"{index}.png", opened(image)


def part_of(image: ImageLike, index: int) -> FormPart:
    """One image as a part of a form: file name, bytes and content type.

    Files and bytes are sent as they are. A PIL image, put upright, and a uint8 array (`[H, W, 3]`, RGB, or `[H, W]`,
    grey) become PNG, which loses nothing. Raises `ImageError` as `content_of` does.
    """
    name, content = content_of(image, index)
    if isinstance(content, bytes):
        return name, content, "application/octet-stream"
    stream = io.BytesIO()
    try:
        ImageOps.exif_transpose(content).save(stream, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise ImageError(Code.CANNOT_DECODE, f"the image cannot be encoded ({error})") from None
    return name, stream.getvalue(), "image/png"

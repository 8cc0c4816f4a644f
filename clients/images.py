"""What callers hold images in, as the bytes that are sent."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import ImageOps

from oodguard.core.errors import ImageError
from oodguard.core.images import ImageLike, opened

FormPart = tuple[str, bytes, str]


def part_of(image: ImageLike, index: int) -> FormPart:
    """One image as a part of a form: file name, bytes and content type.

    Files and bytes are sent as they are. A PIL image, put upright, and a uint8 array (`[H, W, 3]`, RGB, or `[H, W]`,
    grey) become PNG, which loses nothing. Raises `ImageError` for anything else and for a file that cannot be read.
    """
    if isinstance(image, bytes):
        return f"{index}", image, "application/octet-stream"
    if isinstance(image, str | Path):
        path = Path(image)
        try:
            return path.name, path.read_bytes(), "application/octet-stream"
        except OSError as error:
            code = "not_found" if isinstance(error, FileNotFoundError) else "cannot_read"
            raise ImageError(code, f"{image} cannot be read ({error.strerror})") from None
    stream = io.BytesIO()
    try:
        ImageOps.exif_transpose(opened(image)).save(stream, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise ImageError("cannot_decode", f"the image cannot be encoded ({error})") from None
    return f"{index}.png", stream.getvalue(), "image/png"

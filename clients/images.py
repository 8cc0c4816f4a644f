"""What callers hold images in, as the bytes that are sent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from oodguard.core.errors import InputError

ImageLike = Path | bytes | Image.Image | npt.NDArray[np.uint8]
Part = tuple[str, bytes, str]


def part_of(image: ImageLike, index: int) -> Part:
    """One image as a part of a form: file name, bytes and content type.

    Files and bytes are sent as they are. A PIL image and a uint8 array (`[H, W, 3]`, RGB, or `[H, W]`, grey) become
    PNG, which loses nothing. Raises `InputError` for anything else and for a file that cannot be read.
    """
    if isinstance(image, bytes):
        return f"{index}", image, "application/octet-stream"
    if isinstance(image, Path):
        try:
            return image.name, image.read_bytes(), "application/octet-stream"
        except OSError as error:
            raise InputError(f"{image} cannot be read ({error.strerror})") from None
    return f"{index}.png", _png(image), "image/png"


def _png(image: Any) -> bytes:
    if isinstance(image, np.ndarray):
        if (
            image.dtype != np.uint8
            or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3))
            or not image.size
        ):
            raise InputError(f"an array must be uint8 [H, W, 3] or [H, W]; got {image.dtype} {list(image.shape)}")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InputError(f"an image is a Path, bytes, a PIL image or a NumPy array; got {type(image).__name__}")
    stream = io.BytesIO()
    try:
        image.save(stream, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise InputError(f"the image cannot be encoded ({error})") from None
    return stream.getvalue()

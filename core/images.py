"""What callers hold images in: paths, encoded bytes, PIL images and arrays; and the one way from each to pixels."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from oodguard.core.codes import Code
from oodguard.core.decoding import DecodingRoom
from oodguard.core.errors import ImageError
from oodguard.core.formats import FORMAT_NAMES
from oodguard.core.preprocessing import (
    DEFAULT_LIMITS,
    ImageLimits,
    Pixels,
    Preprocessing,
    upright,
)
from oodguard.core.quality import Picture, load_picture, picture_from
from oodguard.core.text import readable

# For the files of whoever gives the command, in training as in scoring: only absurd ones are refused.
OWN_LIMITS = ImageLimits(max_bytes=1 << 30, max_pixels=400_000_000, max_work=4_800_000_000, formats=FORMAT_NAMES)
# For files that the user keeps, such as flagged images that a server took.
OWN_FILES = ImageLimits(formats=FORMAT_NAMES)

ImageLike = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]

# A pipe that is named like a photo must not be waited for.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
# Iterable, and yet no images in them: `pixels_of` refuses them by name.
_NOT_SEVERAL = (str, Path, bytes, bytearray, memoryview, Image.Image, io.IOBase)


def listed(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """One image or several, as a list; an array `[N, H, W, 3]` is N images."""
    several = images.ndim == 4 if isinstance(images, np.ndarray) else isinstance(images, Iterable)
    return list(images) if several and not isinstance(images, _NOT_SEVERAL) else [images]  # type: ignore[list-item]


def name_of(image: ImageLike) -> str | None:
    """The file name of an image that is given as a path; None for the others."""
    return readable(Path(image).name) if isinstance(image, str | Path) else None


def pixels_of(
    image: ImageLike,
    preprocessing: Preprocessing,
    limits: ImageLimits = DEFAULT_LIMITS,
    room: DecodingRoom | None = None,
) -> Pixels:
    """The graph's input, `[height, width, 3]` uint8, of an image in any of its forms. Raises `ImageError`.

    ```python
    pixels = pixels_of("photo.jpg", manifest.preprocessing)
    ```

    Files and bytes go through `load_pixels`. PIL images and arrays are decoded already: they are put upright, made RGB,
    resized and cropped (or padded) by the same functions, so a lossless file gives the same pixels in every form. (A
    JPEG that is given as a file may be decoded at a reduced scale; see `Preprocessing.reduced_jpeg`.)
    """
    return picture_of(image, preprocessing, limits, room).pixels


def picture_of(
    image: ImageLike,
    preprocessing: Preprocessing,
    limits: ImageLimits = DEFAULT_LIMITS,
    room: DecodingRoom | None = None,
) -> Picture:
    """As `pixels_of`, with what the pixels and the size of the picture say of its quality. Raises `ImageError`."""
    if isinstance(image, str | Path):
        image = read_file(image, max_bytes=limits.max_bytes)
    if isinstance(image, bytes):
        return load_picture(image, preprocessing, limits, room)
    return picture_from(upright(opened(image), limits), preprocessing)


def opened(image: object) -> Image.Image:
    """A PIL image or an array as a PIL image. Raises `ImageError` for anything else.

    An array is uint8, `[H, W, 3]` in RGB order or `[H, W]` grey. Other types are refused, because nobody can tell
    whether floats mean 0..1 or 0..255, and so are four channels, because nobody can tell RGBA from BGRA.
    """
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise ImageError(Code.UNSUPPORTED_TYPE, f"an image is a path, bytes, a PIL image or a uint8 array; got {kind}")
    colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (colour or image.ndim == 2) or not image.size:
        raise ImageError(
            Code.UNSUPPORTED_TYPE,
            f"an array must be uint8 [H, W, 3] (RGB) or [H, W] (grey); got {image.dtype} {list(image.shape)}",
        )
    return Image.fromarray(image)


def read_file(path: str | Path, *, max_bytes: int) -> bytes:
    """The content of an ordinary file of at most `max_bytes`.

    Raises `ImageError` with the code `not_found`, `cannot_read`, `not_a_file` or `too_many_bytes`.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        name = str(path)
        remote = "; nothing is fetched from a network" if "://" in name or ":/" in name else ""
        raise ImageError(Code.NOT_FOUND, f"there is no such file{remote}") from None
    except (OSError, ValueError) as error:
        raise ImageError(Code.CANNOT_READ, _reason(error)) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(Code.NOT_A_FILE, "it is not an ordinary file")
        if status.st_size > max_bytes:
            raise ImageError(
                Code.TOO_MANY_BYTES, f"the image has {status.st_size:,} bytes; at most {max_bytes:,} are accepted"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            # One more than allowed: a file that grows meanwhile is still refused, by the decoder.
            return stream.read(max_bytes + 1)
    except OSError as error:
        raise ImageError(Code.CANNOT_READ, _reason(error)) from None
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _reason(error: OSError | ValueError) -> str:
    return f"the file cannot be read ({getattr(error, 'strerror', None) or error})"

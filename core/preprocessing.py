"""Image bytes to pixels: the only image path in the project.

Training, evaluation, export and the server all call `load_pixels`, so what was calibrated is what is served.
Normalisation is not here: it is part of the graph.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.core.formats import FORMAT_NAMES

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

# The final resize still shrinks by two, so what is left of the decoder's own filter is hardly seen.
REDUCED_MARGIN = 2
REDUCED_TOLERANCE = 1.0
# Where in a reduced image its picture lies: left, top, right and bottom, in fractions of pixels.
_EXTENT = "oodguard.extent"

# Our own limit decides, before anything is decoded. Both are set once: neither may be touched from decoding threads.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
# One image object may be given twice, to two threads; Pillow reads the file behind it without a guard.
_LOADING = threading.Lock()


class Preprocessing(BaseModel):
    """How an image becomes the `[crop, crop, 3]` uint8 array the graph takes.

    The short side is resized to `resize` pixels, then the central `crop` x `crop` square is cut out.
    `mean` and `std` (RGB, for pixels scaled to 0..1) are applied inside the graph.

    reduced_jpeg: decode a JPEG at 1/2, 1/4 or 1/8 scale while its short side stays at least `REDUCED_MARGIN` times
    `resize`. The pixels then differ from the full path's by less than `REDUCED_TOLERANCE` grey levels on average.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: int = Field(ge=8, le=4096)
    crop: int = Field(ge=8, le=4096)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    reduced_jpeg: bool = False
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ImageLimits(BaseModel):
    """What an image may cost; checked on the header before any pixel is decoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(20 * 1024 * 1024, ge=1, description="Largest encoded image, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest image, in pixels (width x height).")


DEFAULT_LIMITS = ImageLimits()


def open_image(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, shrink_for: Preprocessing | None = None
) -> Image.Image:
    """Decode `data` to an upright RGB image; a JPEG smaller than it is, where `shrink_for` allows `reduced_jpeg`.

    Alpha is laid over white, 16-bit greyscale is scaled to 8 bits, CMYK and palettes are converted, only the first
    frame of an animation is used, and EXIF orientation is applied.

    Raises `ImageError` for anything that is not a usable image; the header is checked first, so a bomb is refused
    without being decoded.
    """
    if not data:
        raise ImageError(Code.EMPTY, "the image is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageError(
            Code.TOO_MANY_BYTES, f"the image has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted"
        )
    with _refusals(), Image.open(io.BytesIO(data), formats=FORMAT_NAMES) as image:
        _require_room(image, limits)
        extent = _reduce(image, shrink_for) if shrink_for is not None and shrink_for.reduced_jpeg else None
        image.load()
        found = _as_rgb(ImageOps.exif_transpose(image))
        if extent is not None:
            found.info[_EXTENT] = _turned(extent, image.size, image.getexif().get(ExifTags.Base.Orientation, 1))
        return found


def _reduce(image: Image.Image, preprocessing: Preprocessing) -> tuple[float, float] | None:
    """Have the decoder reduce a JPEG where that keeps `REDUCED_TOLERANCE`; the picture's true size then, in pixels.

    The size is a fraction where the reduction does not divide the sides: the last row and column are then larger than
    the picture. Chroma at half or a quarter of the width alone (4:2:2, 4:4:0, 4:1:1) comes out in blocks.
    """
    side = REDUCED_MARGIN * preprocessing.resize / min(image.size)
    sampling = {tuple(layer[1:3]) for layer in getattr(image, "layer", ())}
    if side >= 1 or not sampling <= {(1, 1), (2, 2)}:
        return None
    # The decoder drops high frequencies for less than the price of keeping them.
    drafted = image.draft(None, (math.ceil(image.width * side), math.ceil(image.height * side)))
    return None if drafted is None else drafted[1][2:]


def _turned(extent: tuple[float, float], size: tuple[int, int], orientation: int) -> Box:
    """Where a picture of `extent`, at the top left of an image of `size`, lies once its EXIF orientation is applied."""
    (w, h), (width, height) = extent, size
    x = (width - w, float(width)) if orientation in (2, 3, 7, 8) else (0.0, w)
    y = (height - h, float(height)) if orientation in (3, 4, 6, 7) else (0.0, h)
    if orientation in (5, 6, 7, 8):
        x, y = y, x
    return x[0], y[0], x[1], y[1]


def upright(image: Image.Image, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """An image that is open already as `open_image` would give it: upright and RGB. Raises `ImageError`."""
    with _refusals():
        _require_room(image, limits)
        with _LOADING:
            image.load()
        return _as_rgb(ImageOps.exif_transpose(image))


def _require_room(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageError(
            Code.TOO_MANY_PIXELS, f"the image has {width} x {height} pixels; at most {limits.max_pixels:,} are accepted"
        )


@contextmanager
def _refusals() -> Iterator[None]:
    """Whatever Pillow raises, as an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            Code.UNSUPPORTED_TYPE, f"not an image of a supported type ({', '.join(FORMAT_NAMES)})"
        ) from None
    except MemoryError:
        raise ImageError(Code.TOO_MANY_PIXELS, "the image needs more memory than there is") from None
    except Exception as error:  # Pillow's decoders raise almost any type on damaged input
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(Code.CANNOT_DECODE, f"the image is damaged and cannot be decoded ({reason})") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in _SIXTEEN_BIT or image.mode == "I":
        # Pillow clips 16-bit grey to 255 instead of scaling it.
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(wide // 257, 0, 255).astype(np.uint8), "L").convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.clip(np.nan_to_num(np.asarray(image)), 0, 255).astype(np.uint8), "L").convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def to_pixels(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Resize the short side, crop the centre: `[crop, crop, 3]` uint8.

    The crop is taken before resampling wherever the result is the same, so a 1 x 100,000 image costs no more than
    a square one.
    """
    left, top, right, bottom = image.info.get(_EXTENT, (0.0, 0.0, *image.size))
    side = min(right - left, bottom - top)
    # crop > resize would ask for pixels beyond the edge: the whole short side is used instead.
    half = min(side * preprocessing.crop / preprocessing.resize, side) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    box = (x - half, y - half, x + half, y + half)
    size = (preprocessing.crop, preprocessing.crop)
    return np.asarray(image.resize(size, _FILTERS[preprocessing.interpolation], box=box), dtype=np.uint8)


def load_pixels(data: bytes, preprocessing: Preprocessing, limits: ImageLimits = DEFAULT_LIMITS) -> Pixels:
    """Encoded image to the graph's input: `open_image`, then `to_pixels`.

    ```python
    pixels = load_pixels(Path("photo.jpg").read_bytes(), record.preprocessing)
    ```
    """
    return to_pixels(open_image(data, limits, shrink_for=preprocessing), preprocessing)

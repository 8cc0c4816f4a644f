"""Image bytes to pixels: the only image path in the project.

Training, evaluation, export and the server all call `load_pixels`, so what was calibrated is what is served.
Normalisation is part of the graph; `network_input` says what it computes.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator, model_validator

from oodguard.core.bands import LYING, Bands, Box, made_upright, orientation_of, to_resize
from oodguard.core.classifier import InputType, Layout
from oodguard.core.codes import Code
from oodguard.core.decoding import DecodingRoom, Effort, LightRoom, bytes_to_decode
from oodguard.core.errors import ImageError, InputError
from oodguard.core.formats import DEFAULT_FORMATS
from oodguard.core.levels import Levels
from oodguard.core.picture_files import open_picture
from oodguard.core.reduced import reduce, turned
from oodguard.core.refusals import refusals
from oodguard.core.rgb import as_rgb, levels_of
from oodguard.core.tiff import for_pillow, tiff_refusals

Pixels = npt.NDArray[np.uint8]
Channel = npt.NDArray[np.float32]
Triple = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Byte = Annotated[int, Field(ge=0, le=255)]
Fit = Literal["crop", "squash", "pad"]
Channels = Literal["rgb", "bgr"]
White = Literal["tags-else-type"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

# Under this name a decoded image says what it was decoded from.
_ORIGIN = "oodguard.origin"

# Our own limit decides, before anything is decoded. Both are set once: neither may be touched from decoding threads.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

PLAIN_ONLY = (
    "the network takes uint8, so pixels enter it as they are; "
    "give --scale 1 --mean 0 0 0 --std 1 1 1, or a preprocessing that says so"
)
# Of a frame, in pixels.
MAX_SIDE = 4096
FILTERS: Mapping[str, Image.Resampling] = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}
# One image object may be given twice, to two threads; Pillow reads the file behind it without a guard.
_LOADING = threading.Lock()


class Preprocessing(BaseModel):
    """How an image becomes the `[height, width, 3]` uint8 array the graph takes, and that what its network takes.

    A frame is laid over the picture: `resize` pixels high, and `resize_width` or as wide as the input is in proportion.
    `fit` says how they meet: crop, the picture is scaled until it covers the frame; squash, each side is scaled to the
    frame's; pad, the picture is scaled until it lies within the frame, in the middle of `fill`. Then the central
    `crop` x `width` pixels are cut out, with `fill` around them where the picture is smaller. For a square input and
    `crop`, that is: the short side is resized to `resize` pixels, then the central square is cut out.

    Inside the graph: channels in the order `channels`, divided by `scale`, less `mean`, divided by `std` (one number
    for each channel, in that order). See `network_input`.

    reduced_jpeg: decode a JPEG at 1/2, 1/4 or 1/8 scale while the picture stays at least twice as large as it will be
    (`core/reduced.py`). A photo's pixels then differ from the full path's by less than `REDUCED_TOLERANCE` grey levels
    on average.

    white: the rule by which the numbers of a file become 0 to 255 (`core/levels.py`). A program that reads files by
    another rule refuses the record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: int = Field(ge=8, le=MAX_SIDE, description="The height that the picture is fitted to, in pixels.")
    crop: int = Field(ge=8, le=MAX_SIDE, description="The input's height, and its width where `width` does not say.")
    interpolation: Interpolation = Field("bicubic", description="The filter, as Pillow names it.")
    reduced_jpeg: bool = Field(False, description="Whether large JPEG files are decoded at a reduced scale.")
    mean: Triple = Field(description="Subtracted from each channel.")
    std: Triple = Field(description="What each channel is divided by after that.")
    fit: Fit = Field("crop", description="How a picture of another shape meets the input.")
    width: int | None = Field(None, ge=8, le=MAX_SIDE, description="The input's width, where it is not square.")
    resize_width: int | None = Field(
        None, ge=8, le=MAX_SIDE, description="The width that it is fitted to, where that is not in proportion."
    )
    fill: tuple[Byte, Byte, Byte] = Field((0, 0, 0), description="The colour (RGB) around a picture that is padded.")
    channels: Channels = Field("rgb", description="The order in which the network takes the channels.")
    scale: FiniteFloat = Field(255.0, gt=0, description="What pixels are divided by before mean and std.")
    white: White = Field("tags-else-type", description="The rule that says which number of a file is white.")

    @field_validator("std")
    @classmethod
    def _divides(cls, std: Triple) -> Triple:
        if not all(std):
            raise ValueError("no std may be 0")
        return std

    @model_validator(mode="after")
    def _frame_is_bounded(self) -> Preprocessing:
        if self.frame[1] > MAX_SIDE:
            raise ValueError(f"the picture would be fitted to {self.frame[1]} pixels; at most {MAX_SIDE} are allowed")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the graph's input."""
        return self.crop, self.crop if self.width is None else self.width

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image's pixels: height, width, channels."""
        return (*self.size, 3)

    @property
    def is_plain(self) -> bool:
        """Whether the network takes the pixels' own numbers."""
        return self.scale == 1 and not any(self.mean) and self.std == (1, 1, 1)

    @property
    def constants(self) -> tuple[np.float32, Channel, Channel]:
        """`scale`, `mean` and `std` as graphs hold them."""
        return np.float32(self.scale), np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of what the picture is fitted to, of which `size` is the middle."""
        height, width = self.size
        return self.resize, self.resize_width or max(1, round(self.resize * width / height))

    def bytes_of_rows(self, width: int, height: int) -> int:
        """The memory of a picture's rows once they have the input's width, in bytes."""
        return 4 * self.frame[1] * (min if self.fit == "crop" else max)(width, height)

    def scaling(self, width: int, height: int) -> float:
        """What the sides of a picture are multiplied by: above 1 it is enlarged. Squashed, of the side shrunk least."""
        sides = self.frame[1] / width, self.frame[0] / height
        return min(sides) if self.fit == "pad" else max(sides)


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a decoded image no longer shows: the true width and height of its upright picture, and where in a reduced
    image that lies, as left, top, right and bottom in fractions of pixels. A file's own texts are never of this type.
    """

    size: tuple[int, int]
    extent: Box | None


class ImageLimits(BaseModel):
    """What an image may cost and be; checked on the header before any pixel is decoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(20 * 1024 * 1024, ge=1, description="Largest encoded image, in bytes.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest image as it is decoded, in pixels (width x height).")
    max_work: int = Field(
        600_000_000,
        ge=1,
        description="Largest decoding work: pixels times the scans or passes in which the file holds them.",
    )
    formats: tuple[str, ...] = Field(DEFAULT_FORMATS, description="Formats that are read, as core/formats.py has them.")


DEFAULT_LIMITS = ImageLimits()


def open_image(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, shrink_for: Preprocessing | None = None
) -> Image.Image:
    """Decode `data` to an upright RGB image; a JPEG smaller than it is, where `shrink_for` allows `reduced_jpeg`.

    Alpha is laid over white, numbers of more than 8 bits are scaled by `core/levels.py`, CMYK and palettes are
    converted, only the first frame or page is used, and EXIF orientation is applied.

    Raises `ImageError` for anything that is not a usable image; the header is checked first, so a bomb is refused
    without being decoded.
    """
    with _decoded(data, limits, shrink_for, None) as (image, levels, origin):
        found = made_upright(image, levels)
        found.info[_ORIGIN] = origin
        return found


@contextmanager
def opened_within(
    data: bytes, limits: ImageLimits, shrink_for: Preprocessing, room: DecodingRoom | LightRoom | None
) -> Iterator[Image.Image | Bands]:
    """As `open_image`, for `to_pixels`; `room` holds what decoding takes of memory, until the context ends."""
    with _decoded(data, limits, shrink_for, room) as (image, levels, origin):
        found = to_resize(image, levels)
        found.info[_ORIGIN] = origin
        yield found


@contextmanager
def _decoded(
    data: bytes, limits: ImageLimits, shrink_for: Preprocessing | None, room: DecodingRoom | LightRoom | None
) -> Iterator[tuple[Image.Image, Levels | None, _Origin]]:
    """The picture as its file holds it, neither upright nor RGB, its levels and its origin; other files are refused."""
    if not data:
        raise ImageError(Code.EMPTY, "the image is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        most = f"{limits.max_bytes:,} are accepted (--max-image-bytes)"
        raise ImageError(Code.TOO_MANY_BYTES, f"the image has {len(data):,} bytes; at most {most}")
    effort = Effort.of(data, most=limits.max_work)
    _require_little_work(effort.fixed, limits)
    with (
        refusals(limits.formats),
        tiff_refusals(data),
        ExitStack() as held,
        open_picture(for_pillow(data), limits.formats, most_work=limits.max_work) as image,
    ):
        width, height = image.size
        levels = levels_of(image, data)
        extent = None if shrink_for is None else reduce(image, shrink_for)
        _require_room(image, limits, full=(width, height))
        _require_little_work(effort.work(width, height), limits)
        if room is not None and shrink_for is not None:
            resized = shrink_for.bytes_of_rows(*image.size)
            held.enter_context(room.hold(bytes_to_decode(image, effort, full=width * height, resized=resized)))
        image.load()
        orientation = orientation_of(image)
        origin = _Origin(
            size=(height, width) if orientation in LYING else (width, height),
            extent=None if extent is None else turned(extent, image.size, orientation),
        )
        yield image, levels, origin


def size_of(image: Image.Image | Bands) -> tuple[int, int]:
    """Width and height of the picture that an image of `open_image` or `upright` was decoded from."""
    origin = image.info.get(_ORIGIN)
    return origin.size if isinstance(origin, _Origin) else image.size


def upright(image: Image.Image, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """An image that is open already as `open_image` would give it: upright and RGB. Raises `ImageError`."""
    with refusals(limits.formats):
        _require_room(image, limits)
        with _LOADING:
            levels = levels_of(image)
            image.load()
        return as_rgb(ImageOps.exif_transpose(image), levels)


def _require_room(image: Image.Image, limits: ImageLimits, *, full: tuple[int, int] | None = None) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        reduced = f", {width} x {height} where it is decoded smaller" if full not in (None, image.size) else ""
        width, height = full or image.size
        raise ImageError(
            Code.TOO_MANY_PIXELS,
            f"the image has {width} x {height} pixels{reduced}; at most {limits.max_pixels:,} are accepted "
            "(--max-pixels)",
        )


def _require_little_work(work: int, limits: ImageLimits) -> None:
    if work > limits.max_work:
        raise ImageError(
            Code.TOO_MUCH_WORK,
            f"decoding the image would take more than {limits.max_work:,} steps (pixels times scans; "
            "--max-decode-work); save it again as an ordinary JPEG or PNG",
        )


def to_pixels(image: Image.Image | Bands, preprocessing: Preprocessing) -> Pixels:
    """Fit the picture and cut out the middle: `[height, width, 3]` uint8. See `Preprocessing`.

    This is what timm's transforms do: crop, its `center`; squash and pad, its `squash` and `border`, bit for bit. But a
    1 x 100,000 image costs no more than a square one: what crop cuts off is left out before resampling, which rounds
    a little otherwise, and what squash makes broader is shrunk first.
    """
    origin = image.info.get(_ORIGIN)
    extent = origin.extent if isinstance(origin, _Origin) else None
    left, top, right, bottom = extent = extent or (0.0, 0.0, float(image.width), float(image.height))
    height, width = _scaled(*size_of(image), preprocessing)
    (goal, rows), (goal_across, columns) = (
        _middle(have, want) for have, want in zip((height, width), preprocessing.size, strict=True)
    )
    resample = FILTERS[preprocessing.interpolation]
    if preprocessing.fit == "crop":
        across, down = (right - left) / width, (bottom - top) / height
        size = columns.stop - columns.start, rows.stop - rows.start
        # Not beyond the edge by rounding, which Pillow refuses.
        end = min(left + columns.stop * across, right), min(top + rows.stop * down, bottom)
        box = (left + columns.start * across, top + rows.start * down, *end)
        found = np.asarray(image.resize(size, resample, box=box), dtype=np.uint8)
    else:
        found = _resized(image, (width, height), resample, extent)[rows, columns]
    if found.shape == preprocessing.shape:
        return found
    canvas = np.empty(preprocessing.shape, dtype=np.uint8)
    canvas[:] = preprocessing.fill
    canvas[goal, goal_across] = found
    return canvas


def _scaled(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Height and width of the whole picture once it is fitted to the frame, in whole pixels, as timm rounds them."""
    down, across = preprocessing.frame
    if preprocessing.fit == "squash":
        return down, across
    if preprocessing.fit == "crop" and down == across:
        # torchvision, which rounds the long side down.
        return down * height // min(width, height), down * width // min(width, height)
    ratios = height / down, width / across
    ratio = max(ratios) if preprocessing.fit == "pad" else min(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _middle(have: int, want: int) -> tuple[slice, slice]:
    """Where the middle of `have` pixels goes in a side of `want`, and which pixels that is. Rounds as timm does."""
    if have <= want:
        place = (want - have) // 2
        return slice(place, place + have), slice(0, have)
    start = round((have - want) / 2)
    return slice(0, want), slice(start, start + want)


def _resized(image: Image.Image | Bands, size: tuple[int, int], resample: Image.Resampling, box: Box) -> Pixels:
    """A box of the image at another size."""
    (width, height), (left, top, right, bottom) = size, box
    # Pillow resizes the width first: of a thin picture that would make a broad one of its full height.
    if width * (bottom - top) > 4 * max((right - left) * (bottom - top), width * height):
        image = image.resize((image.width, height), resample, box=(0, top, image.width, bottom))
        box = (left, 0, right, height)
    return np.asarray(image.resize(size, resample, box=box), dtype=np.uint8)


def network_input(
    pixels: Pixels, preprocessing: Preprocessing, *, layout: Layout = "NHWC", dtype: InputType = "float32"
) -> npt.NDArray[Any]:
    """What enters the network for pixels `[..., height, width, 3]`: the definition of what graphs compute.

    The channels in the network's order, then `/ scale`, `- mean`, `/ std`, each a float32 operation that is left out
    where it changes nothing; then the network's own layout and type.

    Raises `InputError` for a network that takes uint8 and a preprocessing that divides or subtracts.
    """
    values: npt.NDArray[Any] = pixels[..., ::-1] if preprocessing.channels == "bgr" else pixels
    if dtype == "uint8":
        if not preprocessing.is_plain:
            raise InputError(PLAIN_ONLY)
    else:
        values = values.astype(np.float32)
        scale, mean, std = preprocessing.constants
        values = values if scale == 1 else values / scale
        values = values - mean if mean.any() else values
        values = values / std if (std != 1).any() else values
    if layout == "NCHW":
        values = np.moveaxis(values, -1, -3)
    return np.ascontiguousarray(values, dtype=dtype)


def load_pixels(
    data: bytes,
    preprocessing: Preprocessing,
    limits: ImageLimits = DEFAULT_LIMITS,
    room: DecodingRoom | LightRoom | None = None,
) -> Pixels:
    """Encoded image to the graph's input: `open_image`, then `to_pixels`. `room` holds what that takes of memory.

    A `LightRoom` raises `HeavyPicture` before a picture is decoded that takes more than it lets in.

    ```python
    pixels = load_pixels(Path("photo.jpg").read_bytes(), record.preprocessing)
    ```
    """
    with opened_within(data, limits, preprocessing, room) as image:
        return to_pixels(image, preprocessing)

"""Mild shifts: what cameras, shops and messengers do to a photo without making another thing of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
WIDE = (16, 9)
THUMBNAIL = 96
QUALITY = 30
DARK, BRIGHT = 0.5, 1.5
# The photo's part of a tile's side.
TILE = 3 / 4
# Of the short side: about 1.5 pixels of a 224-pixel input.
BLUR = 1 / 150
# Gains of red, green and blue: a lamp of 3,400 K where the camera expects daylight.
LAMP = (1.2, 1.0, 0.7)


@dataclass(frozen=True)
class Shift:
    """One mild shift: an upright RGB photo to another one, by a fixed rule.

    name: says everything that the result depends on, because activations are cached under it. maker: where such
    photos come from.
    """

    name: str
    maker: str
    change: Callable[[Image.Image], Image.Image]

    def __call__(self, image: Image.Image) -> Image.Image:
        """The changed photo, RGB; `image` stays as it is."""
        return self.change(image)


def framed(image: Image.Image, ratio: tuple[int, int], colour: tuple[int, int, int]) -> Image.Image:
    """The whole photo in the middle of the smallest frame of width : height = `ratio` that holds it."""
    width, height = ratio
    size = (max(image.width, -(-image.height * width // height)), max(image.height, -(-image.width * height // width)))
    return _centred(image, size, colour)


def banded(image: Image.Image) -> Image.Image:
    """The middle of the photo, cut to 16:9, between two black bands that make it square."""
    width, height = WIDE
    w, h = min(image.width, image.height * width // height), min(image.height, image.width * height // width)
    return _centred(ImageOps.fit(image, (max(w, 1), max(h, 1))), (max(w, 1), max(w, 1)), BLACK)


def tiled(image: Image.Image) -> Image.Image:
    """The whole photo in the middle of a white square, of whose side it takes `TILE`."""
    side = round(max(image.size) / TILE)
    return _centred(image, (side, side), WHITE)


def thumbnail(image: Image.Image) -> Image.Image:
    """The photo with a long side of at most `THUMBNAIL` pixels; preprocessing enlarges it again."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def recompressed(image: Image.Image) -> Image.Image:
    """The photo through JPEG of quality `QUALITY`."""
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=QUALITY)
    with Image.open(stored) as found:
        return found.convert("RGB")


def grey(image: Image.Image) -> Image.Image:
    """The photo's luma in all three channels."""
    return ImageOps.grayscale(image).convert("RGB")


def exposed(image: Image.Image, gain: float) -> Image.Image:
    """All values times `gain`, cut at 255."""
    return ImageEnhance.Brightness(image).enhance(gain)


def blurred(image: Image.Image) -> Image.Image:
    """Slightly out of focus: a Gaussian blur of `BLUR` times the short side."""
    return image.filter(ImageFilter.GaussianBlur(BLUR * min(image.size)))


def lamplit(image: Image.Image) -> Image.Image:
    """A white balance that is off: the channels times `LAMP`."""
    values = np.asarray(image, dtype=np.float64) * LAMP
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def on_its_side(image: Image.Image) -> Image.Image:
    """A quarter turn: the camera's note of which way is up was stripped."""
    return image.transpose(Image.Transpose.ROTATE_90)


SHIFTS: tuple[Shift, ...] = (
    Shift("padded to 16:9, black", "video frames, slides", lambda image: framed(image, WIDE, BLACK)),
    Shift("padded to 16:9, white", "documents, slides", lambda image: framed(image, WIDE, WHITE)),
    Shift("16:9 in a square, black bands", "video thumbnails", banded),
    Shift("square tile, white margin 1/8", "shops", tiled),
    Shift(f"thumbnail of {THUMBNAIL} pixels", "shops, search results", thumbnail),
    Shift(f"JPEG quality {QUALITY}", "messengers", recompressed),
    Shift("grey", "scanners, night cameras", grey),
    Shift(f"brightness x {DARK:g}", "dim light, short exposure", lambda image: exposed(image, DARK)),
    Shift(f"brightness x {BRIGHT:g}", "flash, long exposure", lambda image: exposed(image, BRIGHT)),
    Shift("slight blur 1/150", "focus, a shaking hand", blurred),
    Shift("white balance x {:g}/{:g}/{:g}".format(*LAMP), "cameras in lamp light", lamplit),
    Shift("on its side", "orientation stripped by messengers", on_its_side),
)


def _centred(image: Image.Image, size: tuple[int, int], colour: tuple[int, int, int]) -> Image.Image:
    canvas = Image.new("RGB", size, colour)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas

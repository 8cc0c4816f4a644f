"""A large picture is resized in bands: the pixels of the whole, in every mode and orientation, in less memory."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import get_args

import numpy as np
import PIL
import pytest
from PIL import Image

from oodguard.core import bands, preprocessing
from oodguard.core.bands import Bands, fits_bands, made_upright
from oodguard.core.levels import Levels
from oodguard.core.preprocessing import Fit, Interpolation, Pixels, Preprocessing, load_pixels, open_image, to_pixels

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"]
# Decodes a grey PNG of 16 bits and 25 megapixels, and prints what that takes at its peak, in bytes a pixel.
PEAK = """
import re, struct, sys, zlib
from pathlib import Path
from oodguard.core.preprocessing import Preprocessing, load_pixels

def memory(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

side, pack = 5000, zlib.compressobj(1)
rows = b"".join(pack.compress(bytes(1 + 2 * side)) for _ in range(side)) + pack.flush()
chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
data = b"\\x89PNG\\r\\n\\x1a\\n" + b"".join(
    struct.pack(">I", len(one)) + kind + one + struct.pack(">I", zlib.crc32(kind + one)) for kind, one in chunks
)
how = Preprocessing(resize=256, crop=224, mean=(0, 0, 0), std=(1, 1, 1))
before = memory("VmRSS")
load_pixels(data, how)
print((memory("VmHWM") - before) / side**2)
"""


def how(fit: str, interpolation: str = "bicubic", **more: int) -> Preprocessing:
    return Preprocessing(
        resize=40, crop=32, fit=fit, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1), **more
    )


def picture(mode: str, width: int = 150, height: int = 110) -> Image.Image:
    rng = np.random.default_rng(5)
    if mode == "I":
        return Image.fromarray(rng.integers(-70_000, 140_000, (height, width), dtype=np.int32))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65_536, (height, width), dtype=np.uint16))
    if mode == "F":
        return Image.fromarray(rng.uniform(-70, 140, (height, width)).astype(np.float32))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    if mode in ("P", "1", "L", "CMYK", "YCbCr"):
        image = image.convert("RGB")
    return image.convert(mode)


def alike(one: Pixels, other: Pixels) -> bool:
    """Whether pixels are the same. Pillow 12 resizes the rows of tall pictures first, too: a level is another then."""
    most = 0 if int(PIL.__version__.split(".")[0]) >= 13 else 1
    return one.shape == other.shape and int(np.abs(one.astype(int) - other).max()) <= most


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image with an orientation that says how it is stored."""
    found = image.copy()
    found.getexif()[0x0112] = orientation
    return found


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "BAND", 7 * 150)


# What files say of pictures of one channel: which numbers are black and white.
LEVELS = {"I": Levels(-70_000, 140_000), "F": Levels(140, -70)}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_pixels_of_the_whole_picture(mode: str) -> None:
    levels = LEVELS.get(mode)
    expected = to_pixels(made_upright(picture(mode), levels), how("crop"))
    assert alike(to_pixels(Bands(picture(mode), levels=levels), how("crop")), expected)
    assert expected.std() > 3


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_every_orientation_gives_the_pixels_of_the_upright_picture(orientation: int, fit: Fit) -> None:
    image = turned(picture("RGBA"), orientation)
    band = Bands(image, orientation=orientation)
    upright = made_upright(turned(picture("RGBA"), orientation))
    assert band.size == upright.size
    for preprocessing_ in (how(fit), how(fit, width=48)):
        assert alike(to_pixels(band, preprocessing_), to_pixels(upright, preprocessing_))


@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(150, 110), (90, 600), (700, 40)])
def test_every_filter_gives_the_pixels_of_the_whole_picture(
    interpolation: Interpolation, size: tuple[int, int]
) -> None:
    for fit in get_args(Fit):
        expected = to_pixels(picture("CMYK", *size).convert("RGB"), how(fit, interpolation))
        assert alike(to_pixels(Bands(picture("CMYK", *size)), how(fit, interpolation)), expected), fit


def test_files_are_taken_in_bands_where_they_are_large_and_broad(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [fits_bands(*size) for size in ((1024, 1024), (1025, 1024), (40_000, 1023))] == [False, True, False]
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 8
    picture("RGBA").save(stream, "PNG", exif=exif)
    expected = to_pixels(open_image(stream.getvalue()), how("crop"))
    assert alike(load_pixels(stream.getvalue(), how("crop")), expected)
    seen: list[int] = []

    class Noted(Bands):
        def __init__(self, image: Image.Image, *, orientation: int = 1, levels: Levels | None = None) -> None:
            seen.append(orientation)
            super().__init__(image, orientation=orientation, levels=levels)

    monkeypatch.setattr(bands, "fits_bands", lambda width, height: True)
    monkeypatch.setattr(bands, "Bands", Noted)
    assert alike(load_pixels(stream.getvalue(), how("crop")), expected)
    assert seen == [8]
    assert preprocessing.size_of(open_image(stream.getvalue())) == (110, 150)


def test_a_wide_grey_picture_takes_little_more_than_itself() -> None:
    found = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=120, check=True)
    # Two bytes a pixel are the picture; as RGB it would take four more.
    assert 1.9 < float(found.stdout) < 3.0

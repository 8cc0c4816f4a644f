"""A JPEG that is decoded at a reduced scale gives a photo's pixels within the tolerance, however colour is kept."""

from __future__ import annotations

import importlib.resources
import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodguard.core.preprocessing import Preprocessing, load_pixels, open_image, to_pixels
from oodguard.core.reduced import REDUCED_MARGINS, REDUCED_TOLERANCE

PHOTOS = ("china.jpg", "flower.jpg")
# What a JPEG's header says of luma where chroma says 1 x 1.
SAMPLINGS = {"4:2:2": b"\x21", "4:4:0": b"\x12", "4:2:0": b"\x22", "4:1:1": b"\x41"}


def photo(name: str) -> Image.Image:
    folder = Path(str(importlib.resources.files("sklearn.datasets.images")))
    with Image.open(folder / name) as image:
        return image.convert("RGB").resize((1536, 1025), Image.Resampling.BICUBIC)


def chart() -> Image.Image:
    """Saturated squares of 48 pixels."""
    colours = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((1536, 1152), Image.Resampling.NEAREST)


def stored(image: Image.Image, sampling: str) -> bytes:
    """A JPEG; for samplings that Pillow cannot write, that of another with as many blocks, which are then shuffled."""
    stream = io.BytesIO()
    if sampling in ("grey", "CMYK"):
        image.convert("L" if sampling == "grey" else "CMYK").save(stream, "JPEG", quality=85)
        return stream.getvalue()
    written = {"4:4:0": "4:2:2", "4:1:1": "4:2:0"}.get(sampling, sampling)
    image.save(stream, "JPEG", quality=85, subsampling=written)
    data = bytearray(stream.getvalue())
    if written != sampling:
        frame = data.index(b"\xff\xc0")
        assert data[frame + 11 : frame + 12] == SAMPLINGS[written]
        data[frame + 11 : frame + 12] = SAMPLINGS[sampling]
    return bytes(data)


def how(scale: int, margin: float, interpolation: str, fit: str = "crop") -> Preprocessing:
    side = int(1024 / scale / margin)
    return Preprocessing.model_validate(
        {"resize": side, "crop": side, "interpolation": interpolation, "fit": fit, "mean": (0, 0, 0), "std": (1, 1, 1)}
    )


@cache
def whole(name: str, sampling: str) -> tuple[bytes, Image.Image]:
    data = stored(chart() if name == "chart" else photo(name), sampling)
    return data, open_image(data)


def difference(name: str, sampling: str, full: Preprocessing) -> tuple[float, int]:
    """The mean difference of the reduced path from the full one, and the width of what the former decoded."""
    data, image = whole(name, sampling)
    small = open_image(data, shrink_for=full.model_copy(update={"reduced_jpeg": True}))
    found = np.abs(to_pixels(image, full).astype(float) - to_pixels(small, full)).mean()
    return float(found), small.width


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0", "grey", "CMYK"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_photos_are_reduced_within_the_tolerance_by_every_filter(name: str, sampling: str, scale: int) -> None:
    for interpolation in ("bilinear", "hamming", "bicubic", "lanczos"):
        # From the least that is let in, to where the next scale begins.
        for margin in (REDUCED_MARGINS[scale], 1.2 * REDUCED_MARGINS[scale], 1.6 * REDUCED_MARGINS[scale]):
            found, width = difference(name, sampling, how(scale, margin, interpolation))
            assert width == 1536 // scale
            assert 0 < found < REDUCED_TOLERANCE, (interpolation, margin)


@pytest.mark.parametrize("sampling", ["4:2:2", "4:4:0", "4:1:1"])
@pytest.mark.parametrize("source", [*PHOTOS, "chart"])
def test_colour_that_is_halved_one_way_is_not_reduced(sampling: str, source: str) -> None:
    """The decoder would repeat it in blocks: 1.5 to 1.8 grey levels on the chart."""
    # As many blocks lie across as down, so that a header may say either sampling.
    image = (chart() if source == "chart" else photo(source)).resize((1024, 1024))
    data = stored(image, sampling)
    with Image.open(io.BytesIO(data)) as opened:
        assert bytes([16 * opened.layer[0][1] + opened.layer[0][2]]) == SAMPLINGS[sampling]  # type: ignore[attr-defined]
    for scale in REDUCED_MARGINS:
        full = how(scale, 2.5, "bicubic")
        quick = full.model_copy(update={"reduced_jpeg": True})
        assert open_image(data, shrink_for=quick).size == (1024, 1024)
        np.testing.assert_array_equal(load_pixels(data, quick), load_pixels(data, full))


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0", "grey", "CMYK"])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_the_chart_is_reduced_within_what_the_documents_say(sampling: str, fit: str) -> None:
    for side in (224, 256, 288, 144, 72, 48):
        for interpolation, most in (("bicubic", REDUCED_TOLERANCE), ("bilinear", 1.9), ("hamming", 1.9)):
            assert difference("chart", sampling, how(1, 1024 / side, interpolation, fit))[0] < most, side


def test_the_usual_photo_is_reduced_as_much_as_ever() -> None:
    """12 megapixels at 4:2:0, for 224 of 256 pixels: a quarter. 24 megapixels for 224 of 224: an eighth."""
    wanted = Preprocessing(resize=256, crop=224, reduced_jpeg=True, mean=(0, 0, 0), std=(1, 1, 1))
    for size, resize, scale in (((4000, 3000), 256, 4), ((6000, 4000), 224, 8), ((1920, 1080), 256, 2)):
        stream = io.BytesIO()
        Image.new("RGB", size, (90, 120, 30)).save(stream, "JPEG", subsampling="4:2:0")
        small = open_image(stream.getvalue(), shrink_for=wanted.model_copy(update={"resize": resize}))
        assert small.size == (size[0] // scale, size[1] // scale)

"""Pictures of every mode become RGB by the same formula, in bands as at once, without much memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from oodguard.core import rgb
from oodguard.core.errors import ImageError
from oodguard.core.levels import Levels
from oodguard.core.rgb import as_rgb


def picture(mode: str, side: int = 40) -> Image.Image:
    rng = np.random.default_rng(3)
    if mode == "I":
        return Image.fromarray(rng.integers(-70_000, 140_001, (side, side), dtype=np.int32))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65_536, (side, side), dtype=np.uint16))
    if mode == "F":
        return Image.fromarray(rng.random((side, side)).astype(np.float32))
    image = Image.fromarray(rng.integers(0, 256, (side, side, 4), dtype=np.uint8), "RGBA")
    if mode in ("P", "1", "L", "CMYK", "YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    return image.convert("LA").convert("La") if mode == "La" else image.convert(mode)


# What nothing but a file's tags can say.
LEVELS = {"I": Levels(-70_000, 140_000)}


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]


@pytest.mark.parametrize("mode", MODES)
def test_bands_give_the_same_picture_as_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(mode)
    whole = np.asarray(as_rgb(image, LEVELS.get(mode)))
    monkeypatch.setattr(rgb, "BAND", 7 * image.width)
    assert np.array_equal(np.asarray(as_rgb(image, LEVELS.get(mode))), whole)
    assert whole.shape == (40, 40, 3)


def test_every_mode_of_pillow_is_read_or_refused() -> None:
    """A mode that Pillow brings anew fails here, so that somebody says what it gives."""
    assert set(Image.MODES) - {"LAB", "I;16L", "I;16B", "I;16N"} == set(MODES)
    for order in ("I;16L", "I;16B", "I;16N"):
        assert as_rgb(Image.new(order, (2, 2), 65_535)).getpixel((1, 1)) == (255, 255, 255)
    with pytest.raises(ImageError, match="CIELab colours are not read"):
        as_rgb(Image.new("LAB", (2, 2)))


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa"])
def test_alpha_is_laid_over_white_whether_colours_are_multiplied_by_it_or_not(mode: str) -> None:
    straight = Image.new("LA", (1, 1), (100, 51)) if "L" in mode else Image.new("RGBA", (1, 1), (100, 100, 100, 51))
    # 100 x 0.2 + 255 x 0.8
    assert np.abs(np.asarray(as_rgb(straight.convert(mode)), dtype=int) - 224).max() <= 1


def test_a_palette_with_transparency_is_laid_over_white_in_bands_too(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture("P")
    image.info["transparency"] = image.getpixel((5, 30))
    monkeypatch.setattr(rgb, "BAND", 3 * image.width)
    assert as_rgb(image).getpixel((5, 30)) == (255, 255, 255)


def test_sixteen_bits_are_white_at_65535() -> None:
    image = picture("I;16")
    expected = np.asarray(image) / 65_535 * 255
    assert np.abs(np.asarray(as_rgb(image))[..., 1] - expected).max() <= 0.5


def test_floating_point_is_white_at_1_and_refused_elsewhere() -> None:
    image = picture("F")
    assert np.abs(np.asarray(as_rgb(image))[..., 1] - np.asarray(image) * 255).max() <= 0.51
    # Half a grey level beyond is rounding; a photo of 8 bits that was divided by 255 comes back as it was.
    assert as_rgb(Image.fromarray(np.array([[0.0, 1.001]], dtype=np.float32))).getpixel((1, 0)) == (255, 255, 255)
    levels = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(np.asarray(as_rgb(Image.fromarray((levels / 255).astype(np.float32))))[..., 0], levels)
    for wrong in (1.01, -0.01, 255.0, np.nan, np.inf):
        with pytest.raises(ImageError, match=r"beyond black \(0\) and white \(1\)") as caught:
            as_rgb(Image.fromarray(np.array([[0.5, wrong]], dtype=np.float32)))
        assert caught.value.code == "unsupported_type"


def test_whole_numbers_of_32_bits_say_nothing_about_their_white() -> None:
    with pytest.raises(ImageError, match="32-bit whole numbers, of which nothing says which is white"):
        as_rgb(picture("I"))


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_wide_grey_takes_no_copy_of_wide_numbers(mode: str) -> None:
    image = picture(mode, side=2500)
    tracemalloc.start()
    try:
        as_rgb(image, LEVELS.get(mode))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A band of a megapixel at a time, of a picture of six; NumPy reports what it takes, Pillow does not.
    assert peak < 4 * image.width * image.height

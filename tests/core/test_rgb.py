"""Pictures of every mode become RGB by the same formula, in bands as at once, without much memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from oodguard.core import rgb
from oodguard.core.rgb import as_rgb


def picture(mode: str, side: int = 40) -> Image.Image:
    rng = np.random.default_rng(3)
    if mode == "I":
        return Image.fromarray(rng.integers(-70_000, 140_000, (side, side), dtype=np.int32))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65_536, (side, side), dtype=np.uint16))
    if mode == "F":
        values = rng.normal(128, 200, (side, side)).astype(np.float32)
        values[0, 0] = np.nan
        return Image.fromarray(values)
    image = Image.fromarray(rng.integers(0, 256, (side, side, 4), dtype=np.uint8), "RGBA")
    if mode in ("P", "1", "L", "CMYK", "YCbCr"):
        image = image.convert("RGB")
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_bands_give_the_same_picture_as_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(mode)
    whole = np.asarray(as_rgb(image))
    monkeypatch.setattr(rgb, "BAND", 7 * image.width)
    assert np.array_equal(np.asarray(as_rgb(image)), whole)
    assert whole.shape == (40, 40, 3)


def test_a_palette_with_transparency_is_laid_over_white_in_bands_too(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture("P")
    image.info["transparency"] = image.getpixel((5, 30))
    monkeypatch.setattr(rgb, "BAND", 3 * image.width)
    assert as_rgb(image).getpixel((5, 30)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["I", "I;16"])
def test_wide_grey_is_scaled_by_257_and_clipped(mode: str) -> None:
    image = picture(mode)
    expected = np.clip(np.asarray(image).astype(np.int64) // 257, 0, 255)
    assert np.array_equal(np.asarray(as_rgb(image)), np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_wide_grey_takes_no_copy_of_wide_numbers(mode: str) -> None:
    image = picture(mode, side=2500)
    tracemalloc.start()
    try:
        as_rgb(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A band of a megapixel at a time, of a picture of six; NumPy reports what it takes, Pillow does not.
    assert peak < 4 * image.width * image.height

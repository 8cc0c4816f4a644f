from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone.augment import ASPECT, MIN_AREA, _crop_box, augmented_pixels


def how(**more: object) -> Preprocessing:
    return Preprocessing.model_validate(
        {"resize": 32, "crop": 32, "mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear", **more}
    )


def views(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    return np.stack([augmented_pixels(image, preprocessing, identity="a", view=view) for view in range(1, 41)])


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_views_have_the_inputs_shape_and_are_the_same_in_every_run(fit: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    preprocessing = how(fit=fit, width=48)
    found = views(image, preprocessing)
    assert found.shape == (40, 32, 48, 3)
    np.testing.assert_array_equal(found, views(image, preprocessing))


def test_views_of_a_padded_picture_have_bars_and_no_others_have() -> None:
    image = Image.new("RGB", (200, 100), (200, 0, 0))
    blue = {"fill": (0, 0, 255)}
    bars = (views(image, how(fit="pad", **blue))[..., 2] > 100).mean()
    assert 0.3 < bars < 0.55
    for fit in ("crop", "squash"):
        assert not (views(image, how(fit=fit, **blue))[..., 2] > 100).any()


def test_views_of_a_squashed_picture_are_distorted_as_it_is() -> None:
    """The aspect of the part that is shown, relative to the input's: around 1, or around the picture's own."""
    rng = random.Random(0)
    for natural in (1.0, 2.0, 0.5):
        boxes = [_crop_box((400, 200), rng, natural=natural) for _ in range(300)]
        aspects = np.array([(right - left) / (bottom - top) / natural for left, top, right, bottom in boxes])
        areas = np.array([(right - left) * (bottom - top) / 80_000 for left, top, right, bottom in boxes])
        assert aspects.min() > 0.98 * ASPECT[0]
        assert aspects.max() < 1.02 * ASPECT[1]
        assert areas.max() <= 1
        if natural == 2.0:
            # The picture's own aspect: nearly every draw fits, as it does for a square picture in a square input.
            assert areas.min() > 0.97 * MIN_AREA
            assert areas.mean() > 0.6


def test_a_picture_too_thin_for_any_draw_shows_its_middle() -> None:
    assert _crop_box((1000, 10), random.Random(0), natural=1.0) == (495, 0, 505, 10)
    assert _crop_box((1, 1000), random.Random(0), natural=2.0) == (0, 499, 1, 500)

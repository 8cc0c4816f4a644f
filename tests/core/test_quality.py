"""Traits worked out by hand, and what of them is extreme."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from oodguard.core.preprocessing import Preprocessing, load_pixels
from oodguard.core.quality import (
    TRAITS,
    Picture,
    QualityScale,
    Traits,
    Unfitness,
    load_picture,
    traits_of,
)

PLAIN = Preprocessing(resize=32, crop=32, mean=(0, 0, 0), std=(1, 1, 1))


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(levels, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def usual(count: int = 200, **changed: float) -> list[Traits]:
    """Photos whose traits are spread evenly: blur 0.4 to 0.6, darkness 0.1 to 0.3, no light clipped, half the size."""
    at = np.linspace(0, 1, count).tolist()
    return [
        Traits(**{"blur": 0.4 + 0.2 * x, "darkness": 0.1 + 0.2 * x, "overexposure": 0.0, "smallness": -1.0, **changed})
        for x in at
    ]


def test_edges_noise_and_smooth_light_have_the_blur_that_their_differences_give() -> None:
    edge = np.zeros((32, 32))
    edge[:, 16:] = 200
    # One of 31 near pairs and four of 28 far ones differ: log16((4 / 28) / (1 / 31)).
    assert traits_of(grey(edge)).blur == pytest.approx(np.log((4 / 28) / (1 / 31)) / np.log(16), abs=1e-4)
    assert traits_of(grey(edge.T)).blur == traits_of(grey(edge)).blur
    slope = np.tile(np.arange(32) * 4, (32, 1))
    assert traits_of(grey(slope)).blur == pytest.approx(1.0, abs=1e-3)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224))
    assert traits_of(grey(noise)).blur < 0.05
    assert traits_of(grey(np.full((32, 32), 90))).blur == 1.0


def test_the_worse_direction_counts_and_stripes_are_not_blurred_along_themselves() -> None:
    tiles = np.kron(np.random.default_rng(1).integers(0, 2, (28, 28)), np.ones((8, 8))) * 200
    assert 0.4 < traits_of(grey(tiles)).blur < 0.6
    moved = np.mean([np.roll(tiles, shift, axis=1) for shift in range(16)], axis=0)
    assert traits_of(grey(moved)).blur > 0.85
    assert traits_of(grey(moved.T)).blur == traits_of(grey(moved)).blur
    stripes = np.tile(tiles[:1], (224, 1))
    assert 0.4 < traits_of(grey(stripes)).blur < 0.6


def test_less_light_does_not_blur() -> None:
    tiles = np.kron(np.random.default_rng(2).integers(0, 2, (28, 28)), np.ones((8, 8))) * 250
    assert traits_of(grey(tiles / 10)).blur == pytest.approx(traits_of(grey(tiles)).blur, abs=1e-3)


def test_darkness_is_that_of_the_lightest_parts_but_for_highlights() -> None:
    few = np.full((28, 28), 51)
    few[0] = 255  # 28 of 784 pixels: less than 5 %
    assert traits_of(grey(few)).darkness == 0.8
    few[1] = 255
    assert traits_of(grey(few)).darkness == 0.0
    red = np.zeros((28, 28, 3), dtype=np.uint8)
    red[..., 0] = 204
    assert traits_of(red).darkness == 0.2


def test_overexposure_is_the_share_of_clipped_pixels() -> None:
    few = np.full((28, 28), 249)
    few[:7] = 250
    assert traits_of(grey(few)).overexposure == 0.25


def test_traits_are_measured_alike_on_inputs_of_any_size() -> None:
    """Small inputs are looked at whole, large ones in 28 lines."""
    for shape in ((8, 8), (8, 300), (300, 8), (63, 56), (500, 400)):
        light = np.full(shape, 128)
        light[: -(-shape[0] // 2)] = 255
        found = traits_of(grey(light))
        assert found.overexposure == pytest.approx(0.5, abs=0.02)
        assert found.darkness == 0.0


def test_a_picture_has_the_pixels_that_are_served_and_its_true_size() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 128), (9, 9, 9)).save(stream, "PNG")
    found = load_picture(stream.getvalue(), PLAIN)
    assert (found.pixels == load_pixels(stream.getvalue(), PLAIN)).all()
    assert found.traits.smallness == -1.0
    thumbnail = io.BytesIO()
    Image.new("RGB", (8, 40), (9, 9, 9)).save(thumbnail, "PNG")
    assert load_picture(thumbnail.getvalue(), PLAIN).traits.smallness == 2.0
    padded = PLAIN.model_copy(update={"fit": "pad"})
    assert load_picture(thumbnail.getvalue(), padded).traits.smallness == round(np.log2(32 / 40), 4)


def test_a_reduced_jpeg_is_as_small_as_its_file_says() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (640, 512), (9, 99, 9)).save(stream, "JPEG")
    reduced = PLAIN.model_copy(update={"reduced_jpeg": True})
    assert load_picture(stream.getvalue(), reduced).traits.smallness == -4.0


def test_percentiles_are_shares_of_photos_that_have_less_of_a_trait() -> None:
    scale = QualityScale.fit(usual())
    found = scale.quality(Traits(blur=0.5, darkness=0.05, overexposure=0.0, smallness=-1.0))
    assert found.blur == pytest.approx(50, abs=2)
    assert (found.darkness, found.overexposure, found.smallness, found.reason) == (0, 0, 0, None)
    worst = scale.quality(Traits(blur=1.0, darkness=1.0, overexposure=1.0, smallness=None))
    assert (worst.blur, worst.darkness, worst.overexposure, worst.smallness) == (100, 100, 100, None)


@pytest.mark.parametrize(
    ("trait", "value", "reason"),
    [
        # The worst of 200 has 0.6, the median 0.5: the margin is 0.15 * 0.1.
        ("blur", 0.612, None),
        ("blur", 0.617, Unfitness.BLURRED),
        # As much beyond 0.3 is less than what counts: 0.02.
        ("darkness", 0.318, None),
        ("darkness", 0.322, Unfitness.DARK),
        # Nothing was clipped in training, and a twentieth of a picture may be.
        ("overexposure", 0.05, None),
        ("overexposure", 0.06, Unfitness.OVEREXPOSED),
        # All photos have one size; half an octave of enlarging is nothing.
        ("smallness", 0.5, None),
        ("smallness", 0.6, Unfitness.SMALL),
    ],
)
def test_a_trait_is_a_reason_where_it_is_beyond_the_photos_and_a_margin(
    trait: str, value: float, reason: Unfitness | None
) -> None:
    traits = {"blur": 0.5, "darkness": 0.2, "overexposure": 0.0, "smallness": -1.0, trait: value}
    assert QualityScale.fit(usual()).quality(Traits(**traits)).reason is reason


def test_of_several_reasons_the_one_that_causes_the_others_is_given() -> None:
    scale = QualityScale.fit(usual())
    assert scale.reason(Traits(blur=1.0, darkness=1.0, overexposure=0.5, smallness=3.0)) is Unfitness.SMALL
    assert scale.reason(Traits(blur=1.0, darkness=1.0, overexposure=0.5, smallness=-1.0)) is Unfitness.DARK
    assert scale.reason(Traits(blur=1.0, darkness=0.2, overexposure=0.5, smallness=None)) is Unfitness.OVEREXPOSED
    assert scale.reason(Traits(blur=1.0, darkness=0.2, overexposure=0.0, smallness=-1.0)) is Unfitness.BLURRED


def test_what_is_usual_for_the_photos_is_no_reason() -> None:
    """Photos of a dark shop, thumbnails, or on white paper: each set is its own measure."""
    odd = {"darkness": 0.8, "overexposure": 0.7, "smallness": 2.0, "blur": 0.9}
    scale = QualityScale.fit(usual(100, **odd))
    assert scale.reason(Traits(**odd)) is None
    # Nor is what nobody would see beside them.
    assert scale.reason(Traits(darkness=0.81, overexposure=0.705, smallness=2.2, blur=0.905)) is None
    assert scale.reason(Traits(**{**odd, "smallness": 2.3})) is Unfitness.SMALL


def test_few_photos_say_less_of_what_is_extreme() -> None:
    few, many = (QualityScale.fit(usual(count)).limits[Unfitness.BLURRED] for count in (20, 2000))
    assert few == pytest.approx(0.6 + 0.6 * 0.1, abs=0.01)
    assert many == pytest.approx(0.599 + 0.105 * 0.099, abs=0.002)


def test_a_scale_is_small_and_comes_back_from_its_text() -> None:
    scale = QualityScale.fit(usual(5000))
    text = scale.model_dump_json()
    assert QualityScale.model_validate_json(text) == scale
    assert all(len(getattr(scale, trait).values) <= 64 for trait in TRAITS)
    assert len(text) < 16_000
    with pytest.raises(ValueError, match="needs photos"):
        QualityScale.fit([])


def test_blurring_a_photo_blurs_it_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n), dtype=np.uint8)).resize((224, 224), 0), dtype=float)
        for n in (4, 8, 28, 112)
    ]
    photo = Image.fromarray(grey(np.mean(layers, axis=0)))
    sharp, soft, softer = (
        traits_of(np.asarray(photo.filter(ImageFilter.GaussianBlur(sigma)))) for sigma in (0.01, 2, 4)
    )
    assert sharp.blur < 0.4 < 0.7 < soft.blur < softer.blur
    assert soft.darkness == pytest.approx(sharp.darkness, abs=0.1)
    assert Picture(np.asarray(photo), sharp).traits is sharp

"""A configuration of timm's becomes the preprocessing whose pixels timm's own transform gives."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodguard.core.errors import InputError
from oodguard.core.preprocessing import network_input, to_pixels
from oodguard.training.backbone.timm_config import preprocessing_from
from oodguard.training.backbone.timm_loader import timm
from oodguard.training.backbone.timm_source import create, preprocessing_of

# Of `crop` from `center`, in grey levels: on average, and in any pixel, where Pillow resizes the other side first.
CENTER_MEAN, CENTER_MOST = 0.5, 12
SHAPES = ((640, 480), (481, 640), (1000, 333), (224, 224), (225, 231), (100, 90))


def pictures() -> list[Image.Image]:
    folder = Path(str(importlib.resources.files("sklearn.datasets.images")))
    found = [Image.open(folder / name).convert("RGB") for name in ("china.jpg", "flower.jpg")]
    return [image.resize(shape, Image.Resampling.BICUBIC) for image in found for shape in SHAPES]


def timms(config: dict[str, object], image: Image.Image) -> np.ndarray:
    found = timm.data.create_transform(**config, normalize=False)(image)
    return np.asarray(found.numpy().transpose(1, 2, 0), dtype=int)


@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.95, 0.9, 0.875])
@pytest.mark.parametrize("crop_mode", ["squash", "border"])
def test_squash_and_border_are_timms_pixel_by_pixel(crop_mode: str, crop_pct: float, interpolation: str) -> None:
    config: dict[str, object] = {
        "input_size": (3, 224, 224),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.2),
    }
    for image in pictures():
        np.testing.assert_array_equal(to_pixels(image, preprocessing_from(config)), timms(config, image))


@pytest.mark.parametrize("crop_mode", ["squash", "border"])
@pytest.mark.parametrize("size", [(160, 256), (256, 128), (128, 512)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.95, 0.9])
def test_an_input_that_is_not_square_is_timms_too(crop_mode: str, size: tuple[int, int], crop_pct: float) -> None:
    config: dict[str, object] = {"input_size": (3, *size), "crop_pct": crop_pct, "crop_mode": crop_mode}
    for image in pictures():
        np.testing.assert_array_equal(
            to_pixels(image, preprocessing_from(config)), timms({**config, "interpolation": "bicubic"}, image)
        )


def require_center(config: dict[str, object], images: list[Image.Image]) -> None:
    for image in images:
        mine, theirs = to_pixels(image, preprocessing_from(config)), timms(config, image)
        assert mine.shape == theirs.shape
        difference = np.abs(mine - theirs)
        assert difference.mean() < CENTER_MEAN, (config, image.size)
        assert difference.max() <= CENTER_MOST, (config, image.size)


@pytest.mark.parametrize("size", [(224, 224), (160, 256), (256, 128)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.95, 0.9, 0.875, 1.15])
def test_crop_is_timms_center_but_for_rounding(size: tuple[int, int], crop_pct: float) -> None:
    """1.15: a border is left, which is black."""
    require_center({"input_size": (3, *size), "crop_pct": crop_pct, "interpolation": "bicubic"}, pictures())


def test_every_configuration_of_timms_models_gives_timms_pixels() -> None:
    """Sizes and crops of all pretrained models: 528 x 528 at 0.942, 1024 x 768 squashed, 448 x 448 at 1.15 ..."""
    found = (timm.models.get_pretrained_cfg(name) for name in timm.list_pretrained())
    configs = {(one.input_size, one.crop_pct, one.crop_mode, one.interpolation) for one in found if one is not None}
    assert len(configs) > 100
    assert {mode for _, _, mode, _ in configs} == {"center", "squash", "border"}
    images = [image for image in pictures()[:6] if image.size in ((481, 640), (225, 231), (1000, 333))]
    for size, crop_pct, mode, interpolation in sorted(configs):
        config: dict[str, object] = {
            "input_size": size, "crop_pct": crop_pct, "crop_mode": mode, "interpolation": interpolation,
            "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2),
        }  # fmt: skip
        if mode == "center":
            require_center(config, images[:2])
        else:
            for image in images:
                np.testing.assert_array_equal(to_pixels(image, preprocessing_from(config)), timms(config, image))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_crop_is_timms_center_where_nothing_is_rounded(interpolation: str) -> None:
    """640 x 512 becomes 320 x 256, of which the middle begins at (48, 16)."""
    config: dict[str, object] = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": interpolation}
    for image in pictures():
        image = image.resize((640, 512))
        assert np.abs(to_pixels(image, preprocessing_from(config)) - timms(config, image)).max() <= 1


def test_what_enters_the_network_is_what_timm_feeds() -> None:
    config = timm.data.resolve_model_data_config(create("vit_tiny_patch16_224"))
    how = preprocessing_from({**config, "crop_mode": "squash", "crop_pct": 1.0})
    image = pictures()[0]
    theirs = timm.data.create_transform(**{**config, "crop_mode": "squash", "crop_pct": 1.0})(image).numpy()
    np.testing.assert_array_equal(network_input(to_pixels(image, how), how, layout="NCHW"), theirs)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"resize": 256, "crop": 224, "fit": "crop", "interpolation": "bicubic", "width": None}),
        # timm rounds down: 224 / 0.9 = 248.9.
        ({"crop_pct": 0.9}, {"resize": 248}),
        ({"input_size": (3, 528, 528), "crop_pct": 0.942}, {"resize": 560, "crop": 528}),
        ({"input_size": (3, 128, 512), "crop_pct": 0.95}, {"resize": 134, "resize_width": 538}),
        ({"input_size": (3, 160, 256), "crop_pct": 1.0}, {"resize": 160, "crop": 160, "width": 256}),
        ({"mean": (0.5,), "std": None}, {"mean": (0.5, 0.5, 0.5), "std": (0.229, 0.224, 0.225)}),
        ({"crop_mode": "border", "mean": (0.5, 0.4, 0.3)}, {"fit": "pad", "fill": (128, 102, 76)}),
    ],
)
def test_a_configuration_is_read_as_timm_reads_it(config: dict[str, object], expected: dict[str, object]) -> None:
    found = preprocessing_from(config).model_dump()
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"input_size": (1, 28, 28)}, "for 1 channels"),
        ({"crop_mode": "random"}, "crop_mode 'random' is unknown; there are center, squash, border"),
        ({"interpolation": "magic"}, "interpolation: Input should be 'nearest', 'box'"),
        ({"std": (0, 0, 0)}, "no std may be 0"),
    ],
)
def test_a_configuration_that_says_nonsense_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        preprocessing_from(config)


def test_a_model_of_timms_that_squashes_is_trained_so() -> None:
    model = create("resnet18")
    model.pretrained_cfg = {**model.pretrained_cfg, "crop_mode": "squash", "crop_pct": 1.0}  # type: ignore[assignment,dict-item]
    found = preprocessing_of(model, 96)
    assert (found.fit, found.resize, found.crop) == ("squash", 96, 96)

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodguard.core.errors import InputError
from oodguard.core.preprocessing import load_pixels
from oodguard.training.backbone import features as module
from oodguard.training.backbone.features import Extractor
from oodguard.training.backbone.network import Normalised
from oodguard.training.backbone.sources import load_backbone
from oodguard.training.photos.labelled import Photo, load_photos


@pytest.fixture(scope="module")
def few(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Photo, ...]:
    return load_photos(photos, tmp_path_factory.mktemp("zip")).pool[::20]


def extractor(cache: Path, **options: str) -> Extractor:
    return Extractor(load_backbone("tf_efficientnet_lite0", image_size=64), cache=cache, **options)  # type: ignore[arg-type]


def test_activations_are_the_trunks_on_the_served_pixels(few: tuple[Photo, ...], tmp_path: Path) -> None:
    one = extractor(tmp_path)
    found = one.extract(few)[0]
    pixels = np.stack([load_pixels(p.path.read_bytes(), one.backbone.preprocessing) for p in few])
    with torch.no_grad():
        direct = Normalised(one.backbone.trunk, one.backbone.preprocessing)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, direct, rtol=5e-3, atol=5e-3)


def test_a_second_run_computes_nothing_and_views_differ(few: tuple[Photo, ...], tmp_path: Path) -> None:
    first = extractor(tmp_path)
    a = first.extract(few, views=(0, 1, 2))
    assert first.computed == 3 * len(few)
    second = extractor(tmp_path)
    np.testing.assert_array_equal(second.extract(few, views=(0, 1, 2)), a)
    assert second.computed == 0
    assert not np.array_equal(a[0], a[1])
    assert not np.array_equal(a[1], a[2])


def test_an_interrupted_extraction_goes_on(
    few: tuple[Photo, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    broken = extractor(tmp_path)

    def stop(done: int, _: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.extract(few, progress=stop)
    resumed = extractor(tmp_path)
    resumed.extract(few)
    assert 0 < resumed.computed < len(few)


def test_unreadable_images_are_named_or_refused(few: tuple[Photo, ...], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"junk")
    photos = (*few, Photo(path=bad, label="amber", sha256="0" * 64))
    skipping = extractor(tmp_path)
    assert skipping.readable(photos) == few
    assert list(skipping.unreadable) == ["0" * 64]
    with pytest.raises(InputError, match=r"1 of 10 images cannot be read.*bad\.jpg"):
        extractor(tmp_path, on_unreadable="refuse").readable(photos)


class Scaled(nn.Module):
    """A trunk whose activations are so many times as large."""

    def __init__(self, trunk: nn.Module, factor: float) -> None:
        super().__init__()
        self.trunk, self.factor = trunk, factor

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.trunk(images)
        return found * self.factor


@pytest.mark.parametrize(("factor", "kind"), [(1.0, "float16"), (1e7, "float32"), (1e-9, "float32")])
def test_activations_that_float16_does_not_hold_are_kept_as_they_are(
    few: tuple[Photo, ...], tmp_path: Path, factor: float, kind: str
) -> None:
    backbone = load_backbone("tf_efficientnet_lite0", image_size=64)
    plain = Extractor(backbone, cache=tmp_path / "plain").extract(few[:3])[0].astype(np.float32)
    scaled = dataclasses.replace(backbone, trunk=Scaled(backbone.trunk, factor))
    found = Extractor(scaled, cache=tmp_path / "scaled").extract(few[:3])[0]
    assert found.dtype == kind
    np.testing.assert_allclose(found / factor, plain, rtol=2e-3, atol=2e-3)
    again = Extractor(scaled, cache=tmp_path / "scaled")
    np.testing.assert_array_equal(again.extract(few[:3])[0], found)
    assert again.computed == 0

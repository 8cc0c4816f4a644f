"""Checkpoints as training scripts save them, with the head that they were trained with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import safetensors.torch
import torch
from torch import nn

from oodguard.core.errors import InputError
from oodguard.training.backbone.timm_loader import timm
from oodguard.wrapping.checkpoint import load_classifier, module_to_onnx

NAME = "test_resnet"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A timm model of five classes."""
    torch.manual_seed(3)
    found: nn.Module = timm.create_model(NAME, num_classes=5)
    return found.eval()


def prefixed(model: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("saved", "place"),
    [
        (lambda m: m.state_dict(), None),
        (lambda m: {"epoch": 3, "arch": "x", "state_dict": prefixed(m, "module.")}, "state_dict"),
        (lambda m: {"model": prefixed(m, "_orig_mod."), "args": argparse.Namespace(lr=0.1)}, "model"),
        (lambda m: {"state_dict": prefixed(m, "model."), "hyper_parameters": {"lr": 0.1}}, "state_dict"),
        (lambda m: prefixed(m, "module._orig_mod."), None),
    ],
    ids=["plain", "DataParallel", "compiled, with arguments", "Lightning", "two wrappers"],
)
def test_the_head_is_kept_wherever_the_weights_are(
    saved: Any, place: str | None, model: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(saved(model), path)
    found, lines = load_classifier(path, f"timm:{NAME}")
    assert lines == (() if place is None else (f"weights taken from {place!r} of checkpoint.pth",))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found(images), model(images), rtol=0, atol=0)


def test_averaged_weights_are_preferred(model: nn.Module, tmp_path: Path) -> None:
    last = {name: value + 1 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    path = tmp_path / "last.pth.tar"
    torch.save({"state_dict": last, "state_dict_ema": prefixed(model, "module.")}, path)
    found, lines = load_classifier(path, NAME)
    assert lines == ("weights, the averaged ones, taken from 'state_dict_ema' of last.pth.tar",)
    torch.testing.assert_close(found.state_dict()["fc.weight"], model.state_dict()["fc.weight"], rtol=0, atol=0)


def test_safetensors_hold_tensors_alone(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    found, lines = load_classifier(path, NAME)
    assert lines == ()
    torch.testing.assert_close(found.state_dict()["fc.bias"], model.state_dict()["fc.bias"], rtol=0, atol=0)


class Payload:
    """Something that unpickling would have to import."""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"state_dict": {}, "thing": Payload()}, "holds no state dict"),
        (Payload(), "is a whole network, which cannot be read without running its code"),
        ({"weights": 3}, "holds no state dict"),
        ({"state_dict": {"conv1.weight": torch.zeros(1)}}, r"has no classifier of test_resnet \(fc\.weight\)"),
        ({"state_dict": {"fc.weight": torch.zeros(5, 7), "fc.bias": torch.zeros(5)}}, "does not fit test_resnet: "),
    ],
)
def test_what_does_not_fit_is_one_sentence(content: object, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=sentence) as refusal:
        load_classifier(path, NAME)
    assert "weights_only" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unknown_model_and_a_missing_file_are_named(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_classifier(tmp_path / "none.pth", NAME)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match="timm has no model named 'resnat18'"):
        load_classifier(tmp_path / "a.pth", "resnat18")


def test_a_module_is_exported_with_the_part_that_is_named(model: nn.Module) -> None:
    graph = module_to_onnx(model, height=64, width=48, feature="global_pool")
    running = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    logits, feature = running.run(["logits", "feature"], {"input": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(images).numpy(), atol=1e-4)
        expected = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
    np.testing.assert_allclose(feature, expected.numpy(), atol=1e-4)

"""Anchored networks: a folded one answers as the explicit pairs [c, x - c] do."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from oodguard.bench.networks.anchoring import anchor_input, fold_anchors
from oodguard.bench.networks.residual import by_name
from oodguard.core.errors import InputError
from oodguard.core.preprocessing import Preprocessing
from oodguard.training.backbone.features import export_onnx
from oodguard.training.backbone.network import Normalised
from oodguard.training.backbone.timm_loader import timm

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "wrn": (lambda: by_name("wrn-10-1", classes=4), 32),
    "resnet18": (lambda: by_name("resnet18", classes=4), 16),
    "timm efficientnet_lite0": (lambda: timm.create_model("efficientnet_lite0", num_classes=4), 64),
    "timm resnet18": (lambda: timm.create_model("resnet18", num_classes=4), 64),
}


def unsettled(network: nn.Module) -> nn.Module:
    """In evaluation mode, with halves of the first layer that differ and batch norms that have seen something."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn_like(module.weight) / 3
            module.running_var = 0.5 + torch.rand_like(module.weight)
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    with torch.no_grad():
        first.weight += torch.randn_like(first.weight) * first.weight.std()
    return network.eval()


def explicit(network: nn.Module, anchors: Tensor, x: Tensor) -> Tensor:
    """`[B K, C]`, one anchor at a time."""
    found = [network(torch.cat([c.expand_as(x), x - c], dim=1)) for c in anchors]
    return torch.stack(found, dim=1).flatten(0, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_answers_as_explicit_pairs_do(name: str) -> None:
    build, side = NETWORKS[name]
    torch.manual_seed(0)
    network = unsettled(anchor_input(build()))
    anchors, x = torch.randn(3, 3, side, side), torch.randn(2, 3, side, side)
    with torch.no_grad():
        folded, expected = fold_anchors(network, anchors)(x), explicit(network, anchors, x)
    assert folded.shape == (6, 4)
    size = expected.abs().max()
    torch.testing.assert_close(folded / size, expected / size, rtol=0, atol=1e-4)
    # Anchors matter, and so do images: an exchange of the two would be seen.
    assert (expected[0] - expected[1]).abs().max() > 1e-2 * size
    assert (expected[0] - expected[3]).abs().max() > 1e-2 * size


def test_a_folded_linear_layer_answers_as_explicit_pairs_do() -> None:
    torch.manual_seed(0)
    network = anchor_input(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    anchors, x = torch.randn(4, 5), torch.randn(6, 5)
    torch.testing.assert_close(fold_anchors(network, anchors)(x), explicit(network, anchors, x))


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_first_layer_changes(name: str) -> None:
    build, _ = NETWORKS[name]
    plain = build().eval()
    anchored = anchor_input(plain)
    before, after = plain.state_dict(), anchored.state_dict()
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert len(changed) == 1
    torch.testing.assert_close(after[changed[0]], torch.cat([before[changed[0]]] * 2, 1) / 2)


def test_a_folded_network_exports_to_onnx() -> None:
    torch.manual_seed(0)
    network = unsettled(anchor_input(by_name("wrn-10-1", classes=4))).float()
    preprocessing = Preprocessing(resize=32, crop=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.2))
    shown = Normalised(fold_anchors(network, torch.randn(3, 3, 32, 32)), preprocessing).eval()
    graph = io.BytesIO()
    export_onnx(shown, preprocessing, graph, output_names=("logits",))
    session = ort.InferenceSession(graph.getvalue(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    (found,) = session.run(None, {"images": images})
    with torch.no_grad():
        expected = shown(torch.from_numpy(images)).numpy()
    assert found.shape == (15, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        timm.create_model("tf_efficientnet_lite0", num_classes=4),  # pads by itself, unevenly
        nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
        nn.ReLU(),
    ],
    ids=["own padding", "groups", "reflection", "no layer"],
)
def test_a_first_layer_that_cannot_be_split_is_refused(network: nn.Module) -> None:
    with pytest.raises(InputError, match="cannot be anchored"):
        anchor_input(network)

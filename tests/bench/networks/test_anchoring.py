"""Anchored networks take [c, x - c], and only their first layer differs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from oodguard.bench.networks.anchoring import anchor_input
from oodguard.bench.networks.catalogue import network_of
from oodguard.core.errors import InputError
from oodguard.training.backbone.timm_loader import timm

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "wrn": (lambda: network_of("wrn-10-1", classes=4), 32),
    "resnet18": (lambda: network_of("resnet18", classes=4), 16),
    "timm efficientnet_lite0": (lambda: timm.create_model("efficientnet_lite0", num_classes=4), 64),
    "timm resnet18": (lambda: timm.create_model("resnet18", num_classes=4), 64),
}


def unsettled(network: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that have seen something."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn_like(module.weight) / 3
            module.running_var = 0.5 + torch.rand_like(module.weight)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_before_training_an_anchored_network_sees_half_the_image_whatever_the_anchor(name: str) -> None:
    build, side = NETWORKS[name]
    torch.manual_seed(0)
    plain = unsettled(build())
    anchored = anchor_input(plain)
    x, c = torch.randn(2, 2, 3, side, side)
    with torch.no_grad():
        # W/2 c + W/2 (x - c) + b = W (x/2) + b
        found, expected = anchored(torch.cat([c, x - c], dim=1)), plain(x / 2)
        swapped = anchored(torch.cat([c, c - x], dim=1))
    size = expected.abs().max()
    torch.testing.assert_close(found / size, expected / size, rtol=0, atol=1e-4)
    assert (swapped - found).abs().max() > 1e-2 * size


def test_a_linear_first_layer_is_anchored_in_the_same_way() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    x, c = torch.randn(2, 6, 5)
    torch.testing.assert_close(anchor_input(plain)(torch.cat([c, x - c], dim=1)), plain(x / 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_first_layer_changes(name: str) -> None:
    build, _ = NETWORKS[name]
    plain = build().eval()
    anchored = anchor_input(plain)
    before, after = plain.state_dict(), anchored.state_dict()
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert len(changed) == 1
    torch.testing.assert_close(after[changed[0]], torch.cat([before[changed[0]]] * 2, 1) / 2)


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

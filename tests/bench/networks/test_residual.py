from __future__ import annotations

import pytest
import torch

from oodguard.bench.networks.catalogue import network_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("wrn-40-2", 10, 2_243_546),
        ("wrn-40-2", 100, 2_243_546 + 90 * 129),
        ("resnet18", 10, 11_173_962),
    ],
)
def test_networks_have_the_size_that_is_published(name: str, classes: int, count: int) -> None:
    assert sum(p.numel() for p in network_of(name, classes=classes).parameters()) == count


@pytest.mark.parametrize(("name", "width"), [("wrn-10-1", 64), ("wrn-16-2", 128), ("resnet18", 512)])
def test_a_network_is_a_stem_a_last_block_and_a_head(name: str, width: int) -> None:
    torch.manual_seed(0)
    network = network_of(name, classes=7).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        embedding = network.embed(x)
        assert embedding.shape == (2, width)
        assert embedding.min() >= 0
        torch.testing.assert_close(network(x), network.head(embedding))
        # A quarter of the side at the end of a wide ResNet, an eighth at that of ResNet-18.
        assert network.last[0](network.stem(x)).shape[-1] == (4 if name == "resnet18" else 8)


def test_blocks_add_their_input() -> None:
    network = network_of("wrn-16-1", classes=2)
    block = network.last[0][1]
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 64, 8, 8)
    torch.testing.assert_close(block(x), x)

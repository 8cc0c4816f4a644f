from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from oodguard.bench import networks
from oodguard.bench.networks.catalogue import NETWORKS, network_of
from oodguard.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = {"wrn": "wrn-10-1", "resnet18": "resnet18"}


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_gives_logits_by_its_embedding(kind: str) -> None:
    network = network_of(EXAMPLES[kind], classes=7).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert network(x).shape == (2, 7)
        torch.testing.assert_close(network(x), network.head(network.embed(x)))


def test_every_function_that_builds_a_network_of_images_is_listed() -> None:
    listed = {kind.build.__name__ for kind in NETWORKS.values()}
    for path in Path(networks.__path__[0]).glob("*.py"):
        if path.stem in ("catalogue", "network"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.returns is not None:
                builds = ast.unparse(node.returns) == "Network"
                assert node.name in listed or not builds, f"{path.name}: {node.name} is missing from NETWORKS"


@pytest.mark.parametrize("name", ["wrn-12-1", "wrn-4-1", "wrn-40", "wrn-a-2", "wrn--1-2", "resnet18-2", "vgg"])
def test_other_names_are_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(InputError, match=r"6n \+ 4|networks: wrn-DEPTH-WIDEN, resnet18"):
        network_of(name, classes=2)

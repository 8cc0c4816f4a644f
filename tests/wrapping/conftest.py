"""A classifier that somebody trained by a plain loop, and the photos it was trained on and not trained on."""

from __future__ import annotations

import io
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from oodguard.core.preprocessing import Preprocessing, load_pixels, network_input
from oodguard.training.compute import cpu_threads
from tests.conftest import COLOURS, draw

SIDE = 48
PREPROCESSING = Preprocessing(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLASSES = tuple(sorted(COLOURS))


class Net(nn.Module):
    """Two convolutions, global pooling, one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 5, stride=3), nn.ReLU(), nn.Conv2d(12, 24, 3, stride=2), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(24, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `[B, C]`."""
        found: torch.Tensor = self.head(self.pool(self.body(images)).flatten(1))
        return found


@dataclass(frozen=True)
class Trained:
    """A trained network, in memory and as an ONNX file that returns logits."""

    net: Net
    file: Path


def entered(files: list[Path]) -> torch.Tensor:
    """What enters the network for image files, `[B, 3, H, W]`."""
    pixels = np.stack([load_pixels(path.read_bytes(), PREPROCESSING) for path in files])
    return torch.from_numpy(np.ascontiguousarray(network_input(pixels, PREPROCESSING).transpose(0, 3, 1, 2)))


def learnt(root: Path, *, classes: int = 3) -> Net:
    """A network trained on the class folders of `root`; its further classes are never shown."""
    files = sorted(root.rglob("*.jpg"))
    images, targets = entered(files), torch.tensor([CLASSES.index(path.parent.name) for path in files])
    torch.manual_seed(0)
    net = Net(classes)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    with cpu_threads(1):
        for _ in range(40):
            optimiser.zero_grad()
            functional.cross_entropy(net(images), targets).backward()
            optimiser.step()
    return net.eval()


def exported(net: nn.Module, path: Path) -> Path:
    """The network as one ONNX file for batches of any size."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(1, 3, SIDE, SIDE),),
            stream,  # type: ignore[arg-type]
            dynamo=False,
            input_names=["pixels"],
            output_names=["scores"],
            dynamic_axes={"pixels": {0: "n"}, "scores": {0: "n"}},
        )
    path.write_bytes(stream.getvalue())
    return path


@pytest.fixture(scope="session")
def shop(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos of the session with a val/ of 30 new ones a class beside train/ and test/."""
    root = tmp_path_factory.mktemp("shop") / "photos"
    shutil.copytree(photos, root)
    seed = 5000
    for label, colour in COLOURS.items():
        folder = root / "val" / label
        folder.mkdir(parents=True)
        for index in range(30):
            seed += 1
            draw(colour, seed).save(folder / f"{index:03d}.jpg", quality=90)
    return root


@pytest.fixture(scope="session")
def trained(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A classifier of the shop's three classes."""
    net = learnt(shop / "train")
    return Trained(net, exported(net, tmp_path_factory.mktemp("classifier") / "shop.onnx"))

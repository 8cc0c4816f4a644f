"""The cost of training the guard's heads for different M, |I|, K and batches, relative to one plain head.

    python -m oodguard.bench.cost

Times epochs on random features of the size of a real run, each setting in turn with the plain head in the same minute,
and prints seconds per epoch, their ratio, and the peak memory of a process of its own that trains nothing else. At
|I| = 2, a step costs the same whatever M is. (The LDR paper's own implementation needs 53 s and 2,189 s per epoch for
M = 5 and 50.)
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from oodguard.bench.networks.network import Network, feature_network
from oodguard.training.compute import cpu_threads, start_compute
from oodguard.training.heads.guard import fit_heads
from oodguard.training.loop import EpochReport, Objective, Schedule, fit
from oodguard.training.options import TrainOptions


@dataclass(frozen=True)
class CostSetting:
    """What is trained: `members` 0 is one plain two-layer head."""

    members: int
    active: int = 2
    anchors: int = 5
    batch: int = 64


SETTINGS = (
    CostSetting(5),
    CostSetting(10),
    CostSetting(50),
    CostSetting(5, active=3),
    CostSetting(5, active=5),
    CostSetting(5, anchors=2),
    CostSetting(5, anchors=20),
    CostSetting(5, batch=32),
    CostSetting(5, batch=256),
)


class _Plain(Objective):
    def __init__(self, network: Network, features: Tensor, targets: Tensor) -> None:
        super().__init__()
        self.network = network
        self._data = (features, targets)

    def forward(self, rows: Tensor, step: int) -> Tensor:
        features, targets = self._data
        view = torch.randint(len(features), (len(rows),))
        return functional.cross_entropy(self.network(features[view, rows]), targets[rows])


def seconds_per_epoch(setting: CostSetting, *, images: int, width: int, classes: int, epochs: int) -> float:
    """Median seconds of an epoch, the first one left out."""
    torch.manual_seed(0)
    features = torch.rand(2, images, width)
    targets = torch.arange(images) % classes
    seconds: list[float] = []

    def remember(report: EpochReport) -> None:
        seconds.append(report.seconds)

    if setting.members:
        options = TrainOptions(
            data=Path(),
            members=setting.members,
            active=setting.active,
            anchors=setting.anchors,
            batch_size=setting.batch,
            epochs=epochs,
        )
        fit_heads(features, targets, options, classes=classes, progress=remember)
    else:
        network = feature_network(centre=features[0].mean(0), scale=1.0, hidden=128, classes=classes)
        schedule = Schedule(epochs=epochs, batch=setting.batch, lr=1e-3)
        with cpu_threads(1):
            fit(start_compute(1), _Plain(network, features, targets), schedule, count=images, progress=remember)
    return float(np.median(seconds[1:]))


def _measure(setting: CostSetting, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds per epoch and peak memory in MB, in a process of its own."""
    line = [sys.executable, "-m", "oodguard.bench.cost", "--one", json.dumps(asdict(setting))]
    for name in ("images", "width", "classes", "epochs"):
        line += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    seconds, megabytes = json.loads(done.stdout)
    return seconds, megabytes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="what training the heads costs, against one plain head")
    parser.add_argument("--images", type=int, default=1700)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=34)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        seconds = seconds_per_epoch(
            CostSetting(**json.loads(options.one)),
            images=options.images,
            width=options.width,
            classes=options.classes,
            epochs=options.epochs,
        )
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
        return
    console = Console()
    table = Table(title=f"head training, {options.images} images, width {options.width}, {options.classes} classes")
    for column in ("M", "|I|", "K", "batch", "seconds / epoch", "ratio to one plain head", "peak memory (MB)"):
        table.add_column(column, justify="right")
    for setting in track(SETTINGS, description="settings", console=Console(stderr=True)):
        plain, _ = _measure(CostSetting(0, batch=setting.batch), options)
        seconds, megabytes = _measure(setting, options)
        table.add_row(
            str(setting.members),
            str(setting.active),
            str(setting.anchors),
            str(setting.batch),
            f"{seconds:.2f}",
            f"{seconds / plain:.2f}",
            f"{megabytes:.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()

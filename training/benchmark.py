"""What a training step costs against the number of members M, at |I| = 2 active members.

    python -m oodguard.training.benchmark

Times `fit_heads` on random features of the size of a real run, for M = 5 and M = 50 in turn, and prints seconds an
epoch and their ratio. (The LDR paper's own implementation needs 53 s and 2,189 s an epoch.)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from oodguard.training.heads import fit_heads
from oodguard.training.loop import EpochReport
from oodguard.training.options import TrainOptions


def seconds_per_epoch(members: int, *, images: int, width: int, classes: int, epochs: int) -> float:
    """Median seconds of an epoch of head training, the first one left out."""
    torch.manual_seed(0)
    features = torch.rand(2, images, width)
    targets = torch.arange(images) % classes
    seconds: list[float] = []

    def remember(report: EpochReport) -> None:
        seconds.append(report.seconds)

    options = TrainOptions(data=Path(), members=members, epochs=epochs)
    fit_heads(features, targets, options, classes=classes, progress=remember)
    return float(np.median(seconds[1:]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="seconds an epoch of head training, for M = 5 and M = 50")
    parser.add_argument("--images", type=int, default=1700)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=34)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    table = Table(title=f"head training, {options.images} images, width {options.width}, {options.classes} classes")
    for column in ("M", "seconds / epoch", "ratio to M = 5"):
        table.add_column(column, justify="right")
    found = {
        members: [
            seconds_per_epoch(
                members,
                images=options.images,
                width=options.width,
                classes=options.classes,
                epochs=options.epochs,
            )
            for _ in range(2)
        ]
        for members in (5, 50)
    }
    base = min(found[5])
    for members, seconds in found.items():
        table.add_row(str(members), f"{min(seconds):.2f}", f"{min(seconds) / base:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

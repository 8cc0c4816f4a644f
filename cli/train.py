"""`oodguard train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape

from oodguard.cli.progress import TerminalReporter
from oodguard.cli.terminal import Terminal
from oodguard.training.options import TrainOptions


def train(
    *,
    out: Annotated[Path, Parameter(help="Run folder to write.")],
    parent: Annotated[
        Path | None,
        Parameter(help="Run that this one follows, as its next version; default: the run that is at --out, if any."),
    ] = None,
    options: Annotated[TrainOptions, Parameter(name="*")],
) -> None:
    """Train a guarded classifier on labelled photos.

    The division of the photos keeps near-duplicates together. The calibration photos set the thresholds and are never
    trained on. Features are cached by content, so a second run reuses them.

    Example: oodguard train --data photos --out runs/photos
    """
    from oodguard.training.pipeline import train as run_training

    with TerminalReporter() as report:
        record = run_training(options, out, parent=parent, report=report)
    console = Terminal()
    splits, metrics = record.splits, record.metrics
    console.print(
        f"[bold]{escape(str(out))}[/]: {len(record.classes)} classes; {splits.train} images to train, "
        f"{splits.calibration} to calibrate, {splits.test} to test ({splits.groups} near-duplicate groups kept whole)"
    )
    if record.parent is not None:
        console.print(
            f"{escape(record.name or out.name)} version {record.version}; it follows version {record.parent.version} "
            f"of {record.parent.created}"
        )
    if splits.unreadable:
        console.print(
            f"skipped {len(splits.unreadable)} unreadable images; the first is {escape(splits.unreadable[0])}"
        )
    if "test_accuracy" in metrics:
        console.print(
            f"test accuracy {metrics['test_accuracy']:.3f}; "
            f"{metrics['test_acceptance']:.1%} of test images accepted at a target of 95 %"
        )
    console.print(f"trained in {metrics['train_seconds']:.0f} s; next: oodguard evaluate {out} --ood name=folder")

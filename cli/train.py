"""`oodguard train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import BaseModel, ValidationError
from rich.markup import escape

from oodguard.cli.artefacts import Artefact
from oodguard.cli.groups import grouped
from oodguard.cli.inputs import expect, expect_free, expect_photos
from oodguard.cli.mistakes import validation_sentence
from oodguard.cli.output import Output
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.core.errors import InputError
from oodguard.training.options import OLD_NAMES, TrainOptions

grouped(
    TrainOptions,
    ("data", "exclude", "outliers", "backbone", "image_size", "seed", "overwrite"),
    {
        "Photos": (
            *("classes_from", "ignore_folder", "splits"),
            *("path_column", "label_column", "split_column", "class_names"),
            *("exclude_kinds", "on_unreadable", "on_duplicate", "calibration_fraction", "test_fraction", "leave_out"),
        ),
        "Backbone": (
            *("weights", "views", "fine_tune", "fine_tune_part", "fine_tune_epochs", "fine_tune_lr", "retain"),
            *("fine_tune_batch", "fine_tune_accumulate", "fine_tune_augment", "fine_tune_mixup", "fine_tune_cutmix"),
            *("fine_tune_erasing", "fine_tune_ema"),
        ),
        "Heads": (
            *("members", "ensemble", "active", "disagreement", "alpha_floor", "beta", "hidden", "anchors", "epochs"),
            *("batch_size", "lr", "weight_decay", "label_smoothing", "certificate", "neighbours", "bank_size"),
        ),
        "Thresholds": ("confidence", "cross_fit", "check_folds", "out_of_fold"),
        "This machine": ("cache", "threads", "devices"),
    },
)


class OldOptions(BaseModel):
    """Options under the names that they had before `tune` came to mean the command; no help shows them."""

    tune: Annotated[bool | None, Parameter(show=False)] = None
    tune_epochs: Annotated[int | None, Parameter(show=False)] = None
    tune_lr: Annotated[float | None, Parameter(show=False)] = None

    def into(self, options: TrainOptions) -> TrainOptions:
        """The options with what was given under an old name, unless the new name gives it as well."""
        old = {OLD_NAMES[name]: value for name, value in self if value is not None}
        try:
            return TrainOptions.model_validate(old | options.model_dump(exclude_unset=True)) if old else options
        except ValidationError as error:
            raise InputError(validation_sentence(error, {}, "train")) from None


def train(
    *,
    out: Annotated[Path, Parameter(help="Run folder to write.")],
    parent: Annotated[
        Path | None,
        Parameter(help="Run that this one follows, as its next version; default: the run that is at --out, if any."),
    ] = None,
    options: Annotated[TrainOptions, Parameter(name="*")],
    old: Annotated[OldOptions | None, Parameter(name="*", show=False)] = None,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> None:
    """Train a guarded classifier on labelled photos.

    The division of the photos keeps near-duplicates together. The calibration photos set the thresholds and are never
    trained on. Features are cached by content, so a second run reuses them.

    Example: oodguard train --data photos --out runs/photos
    """
    if old is not None:
        options = old.into(options)
    expect_photos(options.data, flag="--data")
    for path, wanted, flag in (
        (parent, Artefact.RUN, "--parent"),
        (options.outliers, Artefact.IMAGES, "--outliers"),
        (options.exclude, Artefact.SUSPECTS, "--exclude"),
    ):
        if path is not None:
            expect(path, wanted, flag=flag)
    expect_free(out, Artefact.RUN)
    from oodguard.training.pipeline import train as run_training

    with reporter(output) as report:
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

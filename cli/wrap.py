"""`oodguard wrap`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape

from oodguard.cli.artefacts import Artefact, recognise
from oodguard.cli.groups import group, grouped
from oodguard.cli.inputs import expect, expect_free, expect_photos
from oodguard.cli.output import Output
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.core.errors import InputError
from oodguard.wrapping.options import WrapOptions
from oodguard.wrapping.stated import PreprocessingOptions

grouped(
    WrapOptions,
    ("data", "unseen", "all_unseen", "labels", "classes", "backbone", "outliers", "overwrite"),
    {
        "The classifier": ("feature", "logits", "constant", "classes_map"),
        "Heads": (
            *("seed", "views", "members", "hidden", "anchors", "epochs", "batch_size", "lr"),
            *("neighbours", "bank_size"),
        ),
        "Photos and thresholds": (
            *("classes_from", "ignore_folder", "splits"),
            *("path_column", "label_column", "split_column", "class_names"),
            *("on_unreadable", "on_duplicate", "calibration_fraction", "test_fraction", "confidence"),
        ),
        "This machine": ("cache", "threads"),
    },
)


def wrap(
    classifier: Annotated[
        Path, Parameter(help="The classifier: an ONNX file, or with --backbone a timm model's checkpoint.")
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="Run folder to write.")],
    options: Annotated[WrapOptions, Parameter(name="*")],
    said: Annotated[PreprocessingOptions | None, Parameter(name="*", group=group("Preprocessing"))] = None,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> None:
    """Put a guard around a classifier that you already run.

    Its labels and probabilities stay as they are, bit for bit; the guard is trained on its own feature. The command
    finds the feature and the logits in the file, and tries the usual preprocessings on labelled photos unless you say
    which one it is.

    Thresholds need photos that the classifier was not trained on: give them with --unseen, or in val/ of --data.

    Example: oodguard wrap classifier.onnx --data photos --out runs/mine

    Example: oodguard wrap checkpoint.pth --backbone resnet50 --data photos --out runs/mine
    """
    expect(classifier, Artefact.GRAPH)
    if options.backbone is None and recognise(classifier) is Artefact.CHECKPOINT:
        raise InputError(
            f"{classifier} is a checkpoint; say which timm model it is of with --backbone, or export it to ONNX"
        )
    if options.labels == "model":
        expect(options.data, Artefact.IMAGES, flag="--data", more=frozenset({Artefact.ARCHIVE, Artefact.TABLE}))
    else:
        expect_photos(options.data, flag="--data")
    if options.unseen is not None:
        expect(options.unseen, Artefact.PHOTOS, flag="--unseen", more=frozenset({Artefact.SAMPLES}))
    if options.outliers is not None:
        expect(options.outliers, Artefact.IMAGES, flag="--outliers")
    expect_free(out, Artefact.RUN)
    from oodguard.wrapping.around import wrap_path

    with reporter(output) as report:
        record = wrap_path(classifier, options, out, said=said or PreprocessingOptions(), report=report)
    console = Terminal()
    splits, metrics = record.splits, record.metrics
    console.print(
        f"[bold]{escape(str(out))}[/]: a guard around {escape(classifier.name)}, {len(record.classes)} classes; "
        f"{splits.train} images to train, {splits.calibration} to calibrate, {splits.test} to test"
    )
    if splits.unreadable:
        console.print(
            f"skipped {len(splits.unreadable)} unreadable images; the first is {escape(splits.unreadable[0])}"
        )
    if "test_accuracy" in metrics:
        console.print(
            f"test accuracy {metrics['test_accuracy']:.3f}, the classifier's own; "
            f"{metrics['test_acceptance']:.1%} of test images accepted at a target of 95 %"
        )
    console.print(f"made in {metrics['train_seconds']:.0f} s; next: oodguard evaluate {out} --ood name=folder")

"""A graph of lower precision, with thresholds of its own: what int8 and fp16 share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from oodguard.core.answering import LabelledPhotos
from oodguard.core.errors import InputError
from oodguard.core.verdict import Outputs
from oodguard.evaluation.evaluate import options_of
from oodguard.export.graph import run_batches, session
from oodguard.export.half import to_float16
from oodguard.export.parity import Judged
from oodguard.export.photos import RunPhotos, pixel_batches, run_photos, spread
from oodguard.export.quantize import to_int8
from oodguard.export.wrapped_graph import WrappedGraph
from oodguard.training.photos.division import label_numbers
from oodguard.training.photos.labelled import Photo, load_unlabelled
from oodguard.training.progress import Reporter
from oodguard.training.run import Run

RANGE_IMAGES = 256

Lower = Literal["fp16", "int8"]


@dataclass(frozen=True)
class Reduced:
    """A lower-precision graph; what it and the float32 graph say of the calibration photos and of the OOD sets."""

    graph: bytes
    reference: Judged
    reduced: Judged


@dataclass(frozen=True)
class Material:
    """The photos that a lower precision is made and judged with."""

    own: RunPhotos
    ood_sets: Mapping[str, tuple[Photo, ...]]


def gather(run: Run, run_folder: Path, *, data: Path | None, ood: Mapping[str, Path]) -> Material:
    """Find the run's photos and the OOD sets. Raises `InputError` when they cannot be used."""
    ood_sets = {name: load_unlabelled(folder) for name, folder in ood.items()}
    return Material(own=run_photos(run, run_folder, data=data), ood_sets=ood_sets)


def reduce(
    run: Run,
    graph: bytes,
    precision: Lower,
    material: Material,
    *,
    wrapped: WrappedGraph | None = None,
    keep_probabilities: bool = False,
    report: Reporter,
) -> Reduced:
    """Convert the run's float32 `graph` and calibrate every threshold again, on the converted graph's own scores.

    wrapped: of a classifier whose own nodes stay as they are. keep_probabilities: let probabilities leave the guard as
    the graph gives them.
    """
    record = run.record
    if precision == "int8":
        chosen = spread(material.own.training, RANGE_IMAGES, seed=record.seed)
        images = pixel_batches(chosen, record.preprocessing, stage="ranges of activations", report=report)
        small = to_int8(graph, images) if wrapped is None else wrapped.int8(images)
    else:
        small = to_float16(graph)
    running = (session(graph), session(small))

    def both(photos: tuple[Photo, ...], stage: str) -> tuple[Outputs, Outputs]:
        expected, found = run_batches(running, pixel_batches(photos, record.preprocessing, stage=stage, report=report))
        return expected, found

    photos = material.own.calibration
    expected, found = both(photos, f"{precision} answers on calibration images")
    if len(found.scores) != len(photos):
        raise InputError(f"{len(photos) - len(found.scores)} of the run's calibration photos can no longer be read")
    ood = {name: both(photos, f"{precision} answers on {name}") for name, photos in material.ood_sets.items()}
    before = record.calibration
    table = found.scores
    if record.classifier is not None and record.classifier.seen:
        table = _over_views(running[1], run, photos, report)
    after = before.refit(before.columns(table))
    if before.answering is not None:
        own = LabelledPhotos(
            surprise=after.surprise(after.columns(table)),
            probabilities=found.probabilities,
            targets=label_numbers(photos, record.classes),
            groups=np.array([run.division.calibration[photo.label][photo.sha256] for photo in photos], dtype=np.int64),
        )
        # Photos out of fold are on the scale of surprise, which every precision has.
        after = after.answered(run.apart.and_these(own), keep_probabilities=keep_probabilities)
    return Reduced(
        graph=small,
        reference=Judged(before, expected, {name: pair[0] for name, pair in ood.items()}),
        reduced=Judged(after, found, {name: pair[1] for name, pair in ood.items()}),
    )


def _over_views(
    running: ort.InferenceSession, run: Run, photos: tuple[Photo, ...], report: Reporter
) -> npt.NDArray[np.float32]:
    """Scores `[n, S]` of photos that a wrapped classifier was trained on: of each, the largest over augmented views.

    So training has set the thresholds of such a run.
    """
    tables = []
    for view in range(1, max(options_of(run.record).views, 1) + 1):
        pixels = pixel_batches(photos, run.record.preprocessing, stage=f"view {view}", report=report, view=view)
        tables += [one.scores for one in run_batches([running], pixels)]
    return np.asarray(np.max(tables, axis=0))

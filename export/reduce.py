"""A graph of lower precision, with thresholds of its own: what int8 and fp16 share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oodguard.export.contract import Outputs
from oodguard.export.graph import run_batches, session
from oodguard.export.half import to_float16
from oodguard.export.photos import pixel_batches, run_photos, spread
from oodguard.export.quantize import to_int8
from oodguard.training.calibration import Fusion, QuantileCurve
from oodguard.training.contract import SCORES
from oodguard.training.data import Photo, load_unlabelled
from oodguard.training.progress import Reporter
from oodguard.training.run import Run

RANGE_IMAGES = 256

Lower = Literal["fp16", "int8"]


@dataclass(frozen=True)
class Reduced:
    """A lower-precision graph, its thresholds, and both graphs' answers.

    `expected` is the float32 graph's answer for the calibration images and `found` this graph's; `strangers` holds the
    same pair for each OOD set.
    """

    graph: bytes
    curves: dict[str, QuantileCurve]
    fusion: Fusion
    expected: Outputs
    found: Outputs
    strangers: Mapping[str, tuple[Outputs, Outputs]]


def reduce(
    run: Run,
    run_folder: Path,
    graph: bytes,
    precision: Lower,
    *,
    data: Path | None,
    ood: Mapping[str, Path],
    report: Reporter,
) -> Reduced:
    """Convert the run's float32 `graph` and calibrate every threshold again, on the converted graph's own scores.

    Raises `InputError` when the run's photos or an OOD folder cannot be used.
    """
    record = run.record
    sets = {name: load_unlabelled(folder) for name, folder in ood.items()}
    photos = run_photos(run, run_folder, data=data, report=report)
    if precision == "int8":
        chosen = spread(photos.train, RANGE_IMAGES, seed=record.seed)
        small = to_int8(
            graph, pixel_batches(chosen, record.preprocessing, stage="ranges of activations", report=report)
        )
    else:
        small = to_float16(graph)
    running = (session(graph), session(small))

    def both(images: tuple[Photo, ...], stage: str) -> tuple[Outputs, Outputs]:
        batches = pixel_batches(images, record.preprocessing, stage=stage, report=report)
        expected, found = run_batches(running, batches)
        return expected, found

    expected, found = both(photos.calibration, f"{precision} answers on calibration images")
    columns = {spec.name.value: found.scores[:, i].astype("float64") for i, spec in enumerate(SCORES)}
    curves = {name: QuantileCurve.fit(values) for name, values in columns.items()}
    return Reduced(
        graph=small,
        curves=curves,
        fusion=Fusion.fit(curves, columns),
        expected=expected,
        found=found,
        strangers={name: both(images, f"{precision} answers on {name}") for name, images in sets.items()},
    )

"""Further trainings for an evaluation: without some classes, and with other seeds."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from oodguard.evaluation.evidence import FUSED, Evidence, gather
from oodguard.training.metrics import Values
from oodguard.training.options import TrainOptions
from oodguard.training.photos.again import photos_of_run
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.pipeline import train
from oodguard.training.progress import Reporter
from oodguard.training.record import RunRecord
from oodguard.training.run import load_run
from oodguard.training.wrapped import Wrapped

Sets = Callable[[Photos, RunRecord], Mapping[str, tuple[Photo, ...]]]


class Scatter(BaseModel):
    """One figure over several trainings, in their order, with its ends and its median."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[float, ...]
    lowest: float
    median: float
    highest: float

    @classmethod
    def over(cls, values: list[float]) -> Scatter:
        """The scatter of at least one value."""
        return cls(values=tuple(values), lowest=min(values), median=float(np.median(values)), highest=max(values))


class Repeats(BaseModel):
    """Shares over trainings that differ in their seed, this run's first: accuracy, acceptance, and let in by OOD set.

    The fused score decides, at the served threshold of each training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: tuple[int, ...]
    accuracy: Scatter
    acceptance: Scatter
    let_in: dict[str, Scatter]


def repeat(
    first: Evidence,
    options: TrainOptions,
    sets: Sets,
    *,
    count: int,
    accept: float,
    report: Reporter,
    wrapped: Wrapped | None = None,
) -> Repeats:
    """Train `count - 1` further guards with the seeds after the run's, and measure all of them alike.

    wrapped: the classifier that they are put around.

    Where the data has no test folder, another seed also draws other test photos.
    """
    found = [first]
    for number in range(1, count):
        varied = options.model_copy(update={"seed": options.seed + number})
        report.note(f"training {number + 1} of {count}: seed {varied.seed}")
        found.append(retrained(varied, sets, report, baselines=False, wrapped=wrapped))
    return Repeats(
        seeds=tuple(evidence.record.seed for evidence in found),
        accuracy=Scatter.over([float(evidence.right.mean()) for evidence in found]),
        acceptance=Scatter.over([_accepted(evidence, evidence.test.values[FUSED], accept) for evidence in found]),
        let_in={
            name: Scatter.over([_accepted(evidence, evidence.ood[name].values[FUSED], accept) for evidence in found])
            for name in first.ood
        },
    )


def leave_out(options: TrainOptions, *, count: int, draws: int, report: Reporter) -> dict[str, Evidence]:
    """Train without `count` random classes, `draws` times, and take their test images as an OOD set of that draw."""
    found = {}
    for draw in range(1, draws + 1):
        varied = options.model_copy(update={"leave_out": count, "seed": options.seed + draw})
        report.note(f"draw {draw} of {draws}: training without {count} classes")
        name = f"draw {draw}"
        found[name] = retrained(varied, functools.partial(_unseen_set, name), report)
    return found


def _unseen_set(name: str, photos: Photos, record: RunRecord) -> dict[str, tuple[Photo, ...]]:
    return {name: unseen(photos, record)}


def retrained(
    options: TrainOptions, sets: Sets, report: Reporter, *, baselines: bool = True, wrapped: Wrapped | None = None
) -> Evidence:
    """What a guard that is trained with other options says of its own test photos and of OOD sets."""
    with tempfile.TemporaryDirectory() as folder:
        record = train(options, Path(folder) / "run", wrapped=wrapped, report=report)
        run = load_run(Path(folder) / "run")
    photos = photos_of_run(run.record, run.division, options)
    return gather(run, photos, options, sets(photos, record), report, baselines=baselines)


def unseen(photos: Photos, record: RunRecord) -> tuple[Photo, ...]:
    """The photos of the classes that a run was trained without: its test folder's, or all of them."""
    return tuple(photo for photo in (photos.test or photos.pool) if photo.label not in record.classes)


def _accepted(evidence: Evidence, fused: Values, accept: float) -> float:
    return float(np.mean(fused <= evidence.record.calibration.thresholds(accept).fused))

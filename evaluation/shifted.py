"""What mild shifts do to a guard: how many test photos are flagged after each, by what, and how many labels hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from oodguard.evaluation.evidence import FUSED, Evidence, MeasuredSet, measured, prepare
from oodguard.evaluation.shifts import SHIFTS, Shift
from oodguard.evaluation.threshold import Deciding, deciding
from oodguard.training.answers import answers
from oodguard.training.metrics import Change, Share, share, share_change
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import Photo
from oodguard.training.progress import Reporter
from oodguard.training.run import Run

PER_CLASS = 6
UNSHIFTED = "as they are"


class Shifted(BaseModel):
    """The test photos after one shift, at the served threshold of the fused score.

    `change` and `accuracy_change`: against the same photos as they are. `right_flagged`: the share flagged of those
    whose label is right (None: of none it is). `decided`: which family flags them. `over`: by score, the share of the
    photos that lie above that score's own threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    maker: str
    flagged: Share
    change: Change
    right_flagged: Share | None
    accuracy: Share
    accuracy_change: Change
    decided: Deciding
    over: dict[str, float]


class ShiftTable(BaseModel):
    """Every mild shift, on the same test photos: at most `per_class` of each class. The first row has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_class: int
    classes: int
    rows: tuple[Shifted, ...]

    @property
    def unshifted(self) -> Shifted:
        """The photos as they are."""
        return self.rows[0]

    @property
    def shifts(self) -> tuple[Shifted, ...]:
        """The rows of shifted photos."""
        return self.rows[1:]


def shift_table(
    run: Run,
    options: TrainOptions,
    evidence: Evidence,
    *,
    accept: float,
    report: Reporter,
    shifts: Sequence[Shift] = SHIFTS,
    per_class: int = PER_CLASS,
) -> ShiftTable:
    """Ask a run about its test photos after each of `shifts`; activations are cached as all others are."""
    rows = chosen(evidence.test.photos, per_class)
    photos = tuple(evidence.test.photos[row] for row in rows)
    targets = evidence.targets[rows]
    backbone, extractor = prepare(run, options)
    thresholds = evidence.record.calibration.thresholds(accept)
    limits = {**{name.value: limit for name, limit in thresholds.scores}, FUSED: thresholds.fused}
    plain = part(evidence.test, rows)
    found = [row_of(UNSHIFTED, "", plain, plain, targets, evidence, limits)]
    for number, shift in enumerate(shifts):
        activations = replace(extractor, arrival=shift).extract(photos)[0]
        report.progress("shifted test photos", number + 1, len(shifts))
        after = measured(evidence.record, photos, answers(backbone, run.heads, activations))
        found.append(row_of(shift.name, shift.maker, plain, after, targets, evidence, limits))
    return ShiftTable(per_class=per_class, classes=len(set(targets.tolist())), rows=tuple(found))


def chosen(photos: Sequence[Photo], per_class: int) -> npt.NDArray[np.int64]:
    """Rows of at most `per_class` photos of each class, in their order: those of the lowest SHA-256, in every run."""
    taken: dict[str, int] = {}
    rows = []
    for row in sorted(range(len(photos)), key=lambda row: photos[row].sha256):
        label = photos[row].label
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= per_class:
            rows.append(row)
    return np.array(sorted(rows), dtype=np.int64)


def part(whole: MeasuredSet, rows: npt.NDArray[np.int64]) -> MeasuredSet:
    """Some rows of a set."""
    said = whole.answers
    return MeasuredSet(
        photos=tuple(whole.photos[row] for row in rows),
        answers=replace(
            said,
            probabilities=said.probabilities[rows],
            votes=said.votes[:, rows],
            scores={name: values[rows] for name, values in said.scores.items()},
        ),
        values={name: values[rows] for name, values in whole.values.items()},
    )


def row_of(
    name: str,
    maker: str,
    before: MeasuredSet,
    after: MeasuredSet,
    targets: npt.NDArray[np.int64],
    evidence: Evidence,
    limits: dict[str, float],
) -> Shifted:
    """One row, from what the guard said of the same photos before and after. limits: every score's threshold."""
    flagged = [found.values[FUSED] > limits[FUSED] for found in (before, after)]
    right = [found.answers.probabilities.argmax(1) == targets for found in (before, after)]
    return Shifted(
        name=name,
        maker=maker,
        flagged=share(flagged[1]),
        change=share_change(flagged[0], flagged[1]),
        right_flagged=share(flagged[1][right[1]]) if right[1].any() else None,
        accuracy=share(right[1]),
        accuracy_change=share_change(right[0], right[1]),
        decided=deciding(evidence.record.calibration, after.answers, limits[FUSED]),
        over={key: float(np.mean(values > limits[key])) for key, values in after.values.items() if key != FUSED},
    )

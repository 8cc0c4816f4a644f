"""The images that a guard finds most and least divergent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from oodguard.evaluation.evidence import FUSED, Evidence, MeasuredSet
from oodguard.pages.text import plain

SHOWN = 12
SHOWN_ELSEWHERE = 6
# With many sets the page keeps to a few MB.
MANY_SETS = 6
ID = "ID test"


class Extreme(BaseModel):
    """One image: where it lies, its label (an OOD image's is its folder's name), and what the guard said.

    `row` is its place in its set; `percentile` the share of calibration images with a lower fused score, 0 to 100.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: int
    file: str
    label: str
    predicted: str
    probability: float
    fused: float
    percentile: float
    pds: float
    flagged: bool


class Extremes(BaseModel):
    """The images of one set at one end of one score (`fused` or `pds`), most extreme first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: str
    score: str
    highest: bool
    images: tuple[Extreme, ...]


def extremes(evidence: Evidence, threshold: float) -> tuple[Extremes, ...]:
    """Both ends of the fused score and of PDS, for the test images and every OOD set.

    `SHOWN` images where the fused score is most wrong, `SHOWN_ELSEWHERE` at the other ends; half of both with more
    than `MANY_SETS` OOD sets. threshold: of the fused score. Ties are broken by the order of the images.
    """
    divisor = 2 if len(evidence.ood) > MANY_SETS else 1
    sets: Mapping[str, MeasuredSet] = {ID: evidence.test, **evidence.ood}
    return tuple(
        _end(
            evidence,
            name,
            measured,
            score,
            highest,
            threshold,
            (SHOWN if score == FUSED and highest == (name == ID) else SHOWN_ELSEWHERE) // divisor,
        )
        for name, measured in sets.items()
        for score in (FUSED, "pds")
        # What goes wrong comes first: ID images that look strange, strangers that look familiar.
        for highest in ((True, False) if measured is evidence.test else (False, True))
    )


def _end(
    evidence: Evidence, name: str, measured: MeasuredSet, score: str, highest: bool, threshold: float, shown: int
) -> Extremes:
    values = measured.values[score]
    rows = np.argsort(-values if highest else values, kind="stable")[:shown].tolist()
    fused, pds = measured.values[FUSED], measured.values["pds"]
    percentiles = evidence.record.calibration.curve.percentile(fused)
    probabilities = measured.answers.probabilities
    return Extremes(
        set=name,
        score=score,
        highest=highest,
        images=tuple(
            Extreme(
                row=row,
                file=plain(str(measured.photos[row].path)),
                label=plain(measured.photos[row].label),
                predicted=evidence.record.classes[int(probabilities[row].argmax())],
                probability=float(probabilities[row].max()),
                fused=float(fused[row]),
                percentile=float(percentiles[row]),
                pds=float(pds[row]),
                flagged=bool(fused[row] > threshold),
            )
            for row in rows
        ),
    )

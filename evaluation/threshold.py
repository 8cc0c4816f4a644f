"""What happens at the thresholds that are served: what each score lets in, and which family decides."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve, Scores
from oodguard.core.scores import Family
from oodguard.evaluation.evidence import FUSED, Evidence
from oodguard.training.answers import Answers
from oodguard.training.metrics import Change, Share, auroc, share, share_change


class AtThreshold(BaseModel):
    """One score at its own threshold, on one OOD set.

    `accepted`: of the ID test images. `let_in`: of the OOD images. `fused_less_this`: the share that the fused score
    lets in less the share that this one does, on the same images; below 0 the fused score is better.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    accepted: Share
    let_in: Share
    fused_less_this: Change
    auroc: float


class Deciding(BaseModel):
    """How many images of a set are flagged, and the share of them that each family decides: its term is the larger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flagged: int
    shares: dict[Family, float]


def score_points(evidence: Evidence, name: str, thresholds: Mapping[str, float]) -> dict[str, AtThreshold]:
    """Every score of the guard, the fused one too, on the OOD set `name`."""
    test, ood = evidence.test.values, evidence.ood[name].values
    passed = ood[FUSED] <= thresholds[FUSED]
    return {key: _point(test[key], ood[key], thresholds[key], passed) for key in test}


def baseline_points(
    evidence: Evidence, name: str, thresholds: Mapping[str, float], accept: float
) -> dict[str, AtThreshold]:
    """Every baseline on the OOD set `name`, with thresholds of its own for the same target; empty without baselines."""
    found = evidence.plain.baselines
    if found is None:
        return {}
    passed = evidence.ood[name].values[FUSED] <= thresholds[FUSED]
    return {
        key: _point(found.test[key], found.ood[name][key], QuantileCurve.fit(held).threshold(accept), passed)
        for key, held in found.calibration.items()
    }


def deciding(calibration: Calibration, found: Answers, threshold: float) -> Deciding:
    """Which family flags the images that these answers are for, at a threshold of the fused score."""
    fusion, curves = calibration.fusion, calibration.curves
    flagged = found.fused(calibration) > threshold
    terms = fusion.by_family(curves, found.scores)
    families = list(terms)
    larger = np.argmax(np.stack([terms[family] for family in families]), axis=0)[flagged]
    return Deciding(
        flagged=int(flagged.sum()),
        shares={
            family: float(np.mean(larger == families.index(family))) if family in terms and flagged.any() else 0.0
            for family in Family
        },
    )


def best(points: Mapping[str, AtThreshold]) -> str:
    """The score that lets in the fewest; of several, the one with the highest AUROC. Chosen on these very images."""
    return min((name for name in points if name != FUSED), key=lambda n: (points[n].let_in.share, -points[n].auroc))


def _point(test: Scores, ood: Scores, threshold: float, fused_passed: npt.NDArray[np.bool_]) -> AtThreshold:
    passed = ood <= threshold
    return AtThreshold(
        accepted=share(test <= threshold),
        let_in=share(passed),
        fused_less_this=share_change(passed, fused_passed),
        auroc=auroc(test, ood),
    )

from __future__ import annotations

import math

import numpy as np
import pytest

from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve
from oodguard.core.fusion import Fusion, Term
from oodguard.core.scores import SCORES, ScoreName
from oodguard.evaluation.ablation import ablate, variants

# 99 values: level of the r-th is r / 100, the knee is at 90 and the mean excess above it is 5.
CURVE = QuantileCurve.fit(np.arange(1, 100))


def calibration_of(*terms: tuple[str, float, float]) -> Calibration:
    """A calibration whose fused score has the terms (score, weight, counts from)."""
    fused = tuple(Term(score=ScoreName(name), weight=weight, counts_from=start) for name, weight, start in terms)
    return Calibration(curves={spec.name: CURVE for spec in SCORES}, fusion=Fusion(terms=fused, curve=CURVE))


def table(amp: list[float], knn: list[float]) -> dict[ScoreName, np.ndarray]:
    filler = {spec.name: np.full(len(amp), 50.0) for spec in SCORES}
    return {**filler, ScoreName.AMP: np.array(amp), ScoreName.KNN: np.array(knn)}


CALIBRATION = calibration_of(("amp", 1.0, 0.0), ("knn", 1.0, 0.0))
TEST = table([10, 20], [10, 10])
OOD = table([15, 30], [99, 99])


def test_every_term_and_family_is_left_out_once() -> None:
    calibration = calibration_of(("amp", 0.5, 0.0), ("energy", 0.5, 0.0), ("knn", 0.25, 0.0), ("mahalanobis", 8.0, 2.8))
    amp, energy, knn, mahalanobis = calibration.fusion.terms
    found = variants(calibration)
    assert found.pop("mean of all scores") == tuple(
        Term(score=spec.name, weight=1 / 8, counts_from=0.0) for spec in SCORES
    )
    assert found == {
        "fused": (amp, energy, knn, mahalanobis),
        "without amp": (energy, knn, mahalanobis),
        "without energy": (amp, knn, mahalanobis),
        "without knn": (amp, energy, mahalanobis),
        "without mahalanobis": (amp, energy, knn),
        "without density": (amp, energy),
        "without confidence": (knn, mahalanobis),
    }


def test_a_variant_without_terms_is_not_one() -> None:
    assert list(variants(calibration_of(("amp", 1.0, 0.0)))) == ["fused", "without density", "mean of all scores"]


def test_ablation_by_hand() -> None:
    calibration = table(list(range(1, 100)), [50.0] * 99)
    found = ablate(CALIBRATION, test=TEST, ood=OOD, calibration_scores=calibration, accept=0.95)
    # knn separates completely; by amp alone three of the four pairs are in order.
    assert found["fused"].auroc == 1.0
    assert found["without amp"].auroc == 1.0
    assert found["without knn"].auroc == 0.75
    assert found["without knn"].auroc_change.change == pytest.approx(-0.25)
    # 95 % of two ID images is both: amp accepts up to 20.
    assert found["without knn"].ood_accepted_at_95_id == 0.5
    assert found["fused"].ood_accepted_at_95_id == 0.0
    # The threshold is u(95) + u(50) = log 10 + 1 + log 2, and an OOD image has at least u(15) + u(99).
    assert math.log(10) + 1 + math.log(2) < -math.log(0.85) + math.log(10) + 9 / 5
    assert found["fused"].ood_flagged.share == 1.0
    # Without knn the threshold is u(95), above both OOD images.
    assert found["without knn"].ood_flagged.share == 0.0
    assert found["without knn"].id_accepted.share == 1.0


def test_thresholds_come_from_calibration_images_alone() -> None:
    calibration = table([1.0] * 99, [1.0] * 99)
    found = ablate(CALIBRATION, test=TEST, ood=OOD, calibration_scores=calibration, accept=0.95)
    assert found["fused"].id_accepted.share == 0.0

from __future__ import annotations

import math

import numpy as np
import pytest

from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve
from oodguard.core.fusion import Fusion
from oodguard.core.scores import SCORES, Family, ScoreName
from oodguard.evaluation.ablation import ablate, variants

# 99 values: level of the r-th is r / 100, the knee is at 90 and the mean excess above it is 5.
RANKS = np.arange(1.0, 100.0)
CURVES = {spec.name: QuantileCurve.fit(RANKS) for spec in SCORES}


def table(amp: list[float], knn: list[float]) -> dict[ScoreName, np.ndarray]:
    filler = {spec.name: np.full(len(amp), 50.0) for spec in SCORES}
    return {**filler, ScoreName.AMP: np.array(amp), ScoreName.KNN: np.array(knn)}


# Surprising in one family on the photos that are usual in the other.
HELD = table(RANKS.tolist(), RANKS[::-1].tolist())


def calibration_of(*members: str, share: float = 0.8) -> Calibration:
    """A calibration whose fused score has the members."""
    names = tuple(ScoreName(name) for name in members)
    return Calibration(curves=CURVES, fusion=Fusion.fit(CURVES, HELD, members=names, share=share))


CALIBRATION = calibration_of("amp", "knn", share=0.5)
TEST = table([10, 20], [10, 10])
OOD = table([15, 30], [99, 99])


def test_every_member_and_family_is_left_out_once_and_the_shares_stay() -> None:
    found = variants(calibration_of("amp", "energy", "knn", "mahalanobis", share=0.7), HELD)
    tried = {name: fusion for name, fusion in found.items() if name.startswith("confidence share")}
    assert [fusion.share(Family.CONFIDENCE) for fusion in tried.values()] == pytest.approx([0.5, 0.7, 0.8, 0.9, 0.95])
    assert {fusion.scores for fusion in tried.values()} == {found["fused"].scores}
    scores = {name: fusion.scores for name, fusion in found.items() if name not in tried}
    assert scores.pop("mean of all scores") == tuple(spec.name for spec in SCORES)
    assert scores == {
        "fused": ("amp", "energy", "knn", "mahalanobis"),
        "without amp": ("energy", "knn", "mahalanobis"),
        "without energy": ("amp", "knn", "mahalanobis"),
        "without knn": ("amp", "energy", "mahalanobis"),
        "without mahalanobis": ("amp", "energy", "knn"),
        "without density": ("amp", "energy"),
        "without confidence": ("knn", "mahalanobis"),
    }
    assert found["without knn"].share(Family.CONFIDENCE) == pytest.approx(0.7)
    assert found["without density"].share(Family.CONFIDENCE) == 1.0


def test_a_variant_without_members_is_not_one() -> None:
    assert list(variants(calibration_of("amp"), HELD)) == ["fused", "mean of all scores"]


def test_ablation_by_hand() -> None:
    found = ablate(CALIBRATION, test=TEST, ood=OOD, calibration_scores=HELD, accept=0.95)
    # knn separates completely; by amp alone three of the four pairs are in order.
    assert found["fused"].auroc == 1.0
    assert found["without amp"].auroc == 1.0
    assert found["without knn"].auroc == 0.75
    assert found["without knn"].auroc_change.change == pytest.approx(-0.25)
    # 95 % of two ID images is both: amp accepts up to 20.
    assert found["without knn"].ood_accepted_at_95_id == 0.5
    assert found["fused"].ood_accepted_at_95_id == 0.0
    # The photos come in pairs, (1, 99) to (99, 1): the 95th of 99 is of the third pair, surprising by log 10 + 7 / 5.
    # The density term of an OOD image alone, log .5 + log 10 + 9 / 5, is above that.
    threshold = math.log(0.5 * 10 * math.exp(7 / 5) + 0.5 / (1 - 0.03))
    assert variants(CALIBRATION, HELD)["fused"].curve.threshold(0.95) == pytest.approx(threshold)
    assert math.log(0.5) + math.log(10) + 9 / 5 > threshold
    assert found["fused"].ood_flagged.share == 1.0
    # Without knn the threshold is u(95), above both OOD images.
    assert found["without knn"].ood_flagged.share == 0.0
    assert found["without knn"].id_accepted.share == 1.0


def test_thresholds_come_from_calibration_images_alone() -> None:
    usual = table([1.0] * 99, [1.0] * 99)
    found = ablate(CALIBRATION, test=TEST, ood=OOD, calibration_scores=usual, accept=0.95)
    assert found["fused"].id_accepted.share == 0.0

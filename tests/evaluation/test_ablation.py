from __future__ import annotations

import math

import numpy as np
import pytest

from oodguard.core.calibration import Fusion, QuantileCurve
from oodguard.core.scores import SCORES
from oodguard.evaluation.ablation import ablate, variants

# 99 values: level of the r-th is r / 100, the knee is at 90 and the mean excess above it is 5.
CURVE = QuantileCurve.fit(np.arange(1, 100))
CURVES = {spec.name.value: CURVE for spec in SCORES}
FUSION = Fusion(near={"amp": 1.0, "knn": 1.0}, far={}, far_from=2.8, curve=CURVE)


def table(amp: list[float], knn: list[float]) -> dict[str, np.ndarray]:
    filler = {spec.name.value: np.full(len(amp), 50.0) for spec in SCORES}
    return {**filler, "amp": np.array(amp), "knn": np.array(knn)}


INSIDE = table([10, 20], [10, 10])
OUTSIDE = table([15, 30], [99, 99])


def test_every_component_and_family_is_left_out_once() -> None:
    fusion = Fusion(near={"amp": 0.5, "energy": 0.5, "knn": 0.25}, far={"mahalanobis": 8.0}, far_from=2.8, curve=CURVE)
    found = variants(fusion)
    assert found["fused"] == (fusion.near, fusion.far)
    assert found["without amp"] == ({"energy": 0.5, "knn": 0.25}, {"mahalanobis": 8.0})
    assert found["without mahalanobis"] == (fusion.near, {})
    assert found["without density"] == ({"amp": 0.5, "energy": 0.5}, {})
    assert found["without confidence"] == ({"knn": 0.25}, {"mahalanobis": 8.0})
    assert found["mean of all scores"] == ({spec.name.value: 1 / 8 for spec in SCORES}, {})
    assert list(found) == [
        "fused", "without amp", "without energy", "without knn", "without mahalanobis", "without density",
        "without confidence", "mean of all scores",
    ]  # fmt: skip


def test_a_variant_without_components_is_not_one() -> None:
    fusion = Fusion(near={"amp": 1.0}, far={}, far_from=2.8, curve=CURVE)
    assert list(variants(fusion)) == ["fused", "without density", "mean of all scores"]


def test_ablation_by_hand() -> None:
    calibration = table(list(range(1, 100)), [50.0] * 99)
    found = ablate(FUSION, CURVES, inside=INSIDE, outside=OUTSIDE, calibration=calibration, accept=0.95)
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
    assert found["fused"].ood_flagged is not None
    assert found["fused"].ood_flagged.share == 1.0
    # Without knn the threshold is u(95), above both OOD images.
    assert found["without knn"].ood_flagged is not None
    assert found["without knn"].ood_flagged.share == 0.0
    assert found["without knn"].id_accepted is not None
    assert found["without knn"].id_accepted.share == 1.0


def test_thresholds_come_from_calibration_images_alone() -> None:
    calibration = table([1.0] * 99, [1.0] * 99)
    found = ablate(FUSION, CURVES, inside=INSIDE, outside=OUTSIDE, calibration=calibration, accept=0.95)
    assert found["fused"].id_accepted is not None
    assert found["fused"].id_accepted.share == 0.0


def test_without_calibration_images_there_are_no_thresholds() -> None:
    found = ablate(FUSION, CURVES, inside=INSIDE, outside=OUTSIDE, calibration=None, accept=0.95)
    assert found["without knn"].auroc == 0.75
    assert found["without knn"].id_accepted is None
    assert found["without knn"].ood_flagged is None

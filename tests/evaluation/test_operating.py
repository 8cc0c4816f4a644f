from __future__ import annotations

from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.evidence import FUSED, Evidence


def test_operating_points_accept_what_lies_below_their_threshold(found: Evaluation, evidence: Evidence) -> None:
    assert [p.accept for p in found.operating_points] == [0.5, 0.8, 0.9, 0.95, 0.98, 0.99]
    point = found.operating_points[0]
    assert point.threshold == evidence.record.calibration.curve.threshold(0.5)
    accepted = evidence.test.values[FUSED] <= point.threshold
    assert point.id_accepted.share == accepted.mean()
    assert point.accuracy is not None
    assert point.accuracy.share == evidence.right[accepted].mean()
    assert point.ood_accepted["far"].share == 0.0
    at = next(p for p in found.operating_points if p.accept == found.accept)
    assert at.id_accepted == found.acceptance[FUSED]

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve
from oodguard.core.fusion import Fusion
from oodguard.core.scores import Family, ScoreName
from oodguard.evaluation.baselines import LARGER, NEIGHBOUR
from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.evidence import FUSED, Evidence, PlainEvidence
from oodguard.evaluation.threshold import baseline_points, best, deciding, score_points
from oodguard.training.answers import Answers

AMP, KNN = ScoreName.AMP, ScoreName.KNN
RANKS = np.arange(1.0, 1000.0)


def test_points_are_what_the_thresholds_let_in(found: Evaluation, evidence: Evidence) -> None:
    points = found.ood["far"].at_threshold
    assert set(points) == set(evidence.test.values)
    test, far = evidence.test.values["knn"], evidence.ood["far"].values["knn"]
    limit = found.thresholds["knn"]
    assert points["knn"].let_in.share == np.mean(far <= limit)
    assert points["knn"].accepted.share == np.mean(test <= limit) == found.acceptance["knn"].share
    near = found.ood['near "<script>"']
    fused, single = near.at_threshold[FUSED], near.at_threshold["knn"]
    assert single.fused_less_this.change == pytest.approx(fused.let_in.share - single.let_in.share)
    assert fused.fused_less_this.change == 0.0
    assert near.scores[FUSED].ood_flagged == pytest.approx(1 - fused.let_in.share)


def test_baselines_have_thresholds_of_their_own_for_the_same_target(found: Evaluation, evidence: Evidence) -> None:
    plain = evidence.plain.baselines
    assert plain is not None
    point = found.ood["far"].baselines[NEIGHBOUR]
    limit = np.sort(plain.calibration[NEIGHBOUR])[int(np.ceil(0.95 * 201)) - 1]
    assert point.let_in.share == np.mean(plain.ood["far"][NEIGHBOUR] <= limit)
    assert point.accepted.share == np.mean(plain.test[NEIGHBOUR] <= limit)
    looser = baseline_points(evidence, 'near "<script>"', found.thresholds, 0.99)
    assert looser[LARGER].let_in.share > found.ood['near "<script>"'].baselines[LARGER].let_in.share
    without = replace(evidence, plain=PlainEvidence(baselines=None, leak={}, skipped="gone"))
    assert baseline_points(without, "far", found.thresholds, 0.95) == {}


def test_the_best_lets_in_fewest_and_is_never_the_fused_score(found: Evaluation, evidence: Evidence) -> None:
    points = score_points(evidence, "far", {**found.thresholds, "energy": 0.0})
    assert points["energy"].let_in.share == 0.0
    worse = {name: point.model_copy(update={"auroc": 0.5}) for name, point in points.items()}
    worse["amp"] = points["energy"].model_copy(update={"auroc": 0.7})
    worse["knn"] = points["energy"].model_copy(update={"auroc": 0.9})
    worse[FUSED] = points["energy"].model_copy(update={"auroc": 1.0})
    assert best(worse) == "knn"


def said(scores: dict[ScoreName, np.ndarray]) -> Answers:
    count = len(next(iter(scores.values())))
    return Answers(probabilities=np.full((count, 2), 0.5, np.float32), votes=np.zeros((1, count), int), scores=scores)


def test_the_family_with_the_larger_term_decides() -> None:
    rng = np.random.default_rng(0)
    held = {AMP: rng.permutation(RANKS), KNN: rng.permutation(RANKS)}
    curves = {name: QuantileCurve.fit(values) for name, values in held.items()}
    calibration = Calibration(curves=curves, fusion=Fusion.fit(curves, held, members=(AMP, KNN), share=0.8))
    threshold = calibration.thresholds(0.95).fused
    scores = {AMP: np.array([2000.0, 1500.0, 1.0, 1.0, 2000.0]), KNN: np.array([1.0, 500.0, 3000.0, 1.0, 2000.0])}
    found = deciding(calibration, said(scores), threshold)
    # Confidence decides the last one too: as surprising as density, with the larger share.
    assert found.flagged == 4
    assert found.shares == {Family.CONFIDENCE: 0.75, Family.DENSITY: 0.25}


def test_families_decide_on_id_images_in_about_their_shares() -> None:
    rng = np.random.default_rng(1)
    held = {AMP: rng.exponential(size=9999), KNN: rng.exponential(size=9999)}
    curves = {name: QuantileCurve.fit(values) for name, values in held.items()}
    calibration = Calibration(curves=curves, fusion=Fusion.fit(curves, held, members=(AMP, KNN), share=0.7))
    found = deciding(calibration, said(held), calibration.thresholds(0.95).fused)
    assert found.flagged == pytest.approx(500, abs=3)
    assert found.shares[Family.CONFIDENCE] == pytest.approx(0.7, abs=0.1)
    assert sum(found.shares.values()) == pytest.approx(1.0)


def test_nothing_flagged_is_due_to_no_family_and_an_absent_family_decides_nothing() -> None:
    curves = {AMP: QuantileCurve.fit(RANKS), KNN: QuantileCurve.fit(RANKS)}
    held = {AMP: RANKS, KNN: RANKS}
    alone = Calibration(curves=curves, fusion=Fusion.fit(curves, held, members=(KNN,), share=0.8))
    assert deciding(alone, said(held), 1e9).shares == {Family.CONFIDENCE: 0.0, Family.DENSITY: 0.0}
    assert deciding(alone, said(held), 1e9).flagged == 0
    assert deciding(alone, said(held), 0.0).shares == {Family.CONFIDENCE: 0.0, Family.DENSITY: 1.0}

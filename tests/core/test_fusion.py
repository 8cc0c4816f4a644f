from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve
from oodguard.core.fusion import DEFAULT_SHARE, FusedFamily, Fusion, LeftOutCheck, chosen_members, chosen_share
from oodguard.core.scores import SCORES, Family, ScoreName

NAMES = tuple(spec.name for spec in SCORES)
CONFIDENCE = (ScoreName.AMP, ScoreName.ENERGY, ScoreName.ENSEMBLE_ENTROPY, ScoreName.ONE_MINUS_BMA, ScoreName.ICE)
DENSITY = (ScoreName.KNN, ScoreName.MAHALANOBIS)
# 99 values: level of the r-th is r / 100, the knee is at 90 and the mean excess above it is 5.
CURVE = QuantileCurve.fit(np.arange(1, 100))


def drawn(seed: int, count: int) -> dict[ScoreName, np.ndarray]:
    """Scores of the two families that agree within a family and know nothing of each other."""
    rng = np.random.default_rng(seed)
    common = {family: rng.normal(size=count) for family in Family}
    return {spec.name: common[spec.family] + 0.3 * rng.normal(size=count) for spec in SCORES}


def check(auroc: dict[ScoreName, float] | None = None, **shares: float) -> LeftOutCheck:
    return LeftOutCheck(
        folds=3,
        images=90,
        auroc=auroc or dict.fromkeys(NAMES, 80.0),
        let_in=dict.fromkeys(NAMES, 50.0),
        shares={float(share.removeprefix("s")) / 10: let_in for share, let_in in shares.items()} or {0.8: 20.0},
    )


def part(family: Family, share: float, *scores: ScoreName) -> FusedFamily:
    return FusedFamily(family=family, share=share, scores=scores, curve=CURVE)


def test_the_formula_by_hand() -> None:
    fusion = Fusion(
        families=(
            part(Family.CONFIDENCE, 0.75, ScoreName.AMP, ScoreName.ENERGY),
            part(Family.DENSITY, 0.25, ScoreName.KNN),
        ),
        curve=CURVE,
    )
    scores = {ScoreName.AMP: [50.0], ScoreName.ENERGY: [80.0], ScoreName.KNN: [99.0]}
    columns = {name: np.array(value) for name, value in scores.items()}
    curves = dict.fromkeys(columns, CURVE)
    # u(50) = -log 0.5 and u(80) = -log 0.2; their mean is 1.15, above the family's own curve's first value, 1.
    mean = (math.log(2) + math.log(5)) / 2
    confidence = -math.log1p(-np.interp(mean, np.arange(1, 100), np.arange(1, 100) / 100))
    # u(99) = log 10 + 9 / 5 = 4.10, which lies between the 4th and the 5th of 99.
    density = -math.log1p(-np.interp(math.log(10) + 9 / 5, np.arange(1, 100), np.arange(1, 100) / 100))
    expected = math.log(0.75 * math.exp(confidence) + 0.25 * math.exp(density))
    assert fusion.score(curves, columns)[0] == pytest.approx(expected)
    terms = fusion.by_family(curves, columns)
    assert terms[Family.CONFIDENCE][0] == pytest.approx(math.log(0.75) + confidence)
    assert terms[Family.DENSITY][0] == pytest.approx(math.log(0.25) + density)
    assert [fusion.weight(name) for name in (ScoreName.AMP, ScoreName.KNN, ScoreName.PDS)] == [0.375, 0.25, 0.0]


def test_the_registry_says_what_may_join() -> None:
    fusion = Calibration.fit(drawn(0, 200)).fusion
    assert {p.family: p.scores for p in fusion.families} == {Family.CONFIDENCE: CONFIDENCE, Family.DENSITY: DENSITY}
    assert fusion.share(Family.CONFIDENCE) == DEFAULT_SHARE
    assert set(fusion.scores) == {spec.name for spec in SCORES if spec.fused}


def test_false_alarms_are_shared_as_the_shares_say() -> None:
    calibration = Calibration.fit(drawn(1, 4000))
    fresh = drawn(2, 40000)
    fused = calibration.score(fresh)
    flagged = fused > calibration.thresholds(0.95).fused
    assert flagged.mean() == pytest.approx(0.05, abs=0.01)
    terms = calibration.fusion.by_family(calibration.curves, fresh)
    by_confidence = (terms[Family.CONFIDENCE] > terms[Family.DENSITY])[flagged].mean()
    assert by_confidence == pytest.approx(DEFAULT_SHARE, abs=0.06)


@pytest.mark.parametrize("family", Family)
def test_either_family_alone_can_flag(family: Family) -> None:
    calibration = Calibration.fit(drawn(3, 1000))
    usual = {name: np.array([0.0]) for name in NAMES}
    assert calibration.score(usual)[0] < calibration.thresholds(0.5).fused
    strange = {spec.name: np.array([6.0 if spec.family is family else 0.0]) for spec in SCORES}
    assert calibration.score(strange)[0] > calibration.thresholds(0.99).fused


def test_a_score_below_chance_never_joins_but_density_always_does() -> None:
    auroc = {**dict.fromkeys(NAMES, 80.0), ScoreName.ICE: 31.0, ScoreName.KNN: 45.0, ScoreName.PDS: 50.0}
    failed = check(auroc)
    assert failed.failed == {ScoreName.ICE: 31.0, ScoreName.KNN: 45.0, ScoreName.PDS: 50.0}
    assert chosen_members(NAMES, failed) == (*CONFIDENCE[:-1], *DENSITY)
    fusion = Calibration.fit(drawn(4, 200), check=failed).fusion
    assert ScoreName.ICE not in fusion.scores
    assert fusion.check == failed
    assert chosen_members(NAMES, check({**auroc, ScoreName.ICE: 55.0})) == (*CONFIDENCE, *DENSITY)


def test_the_largest_share_within_a_standard_error_of_the_best_is_chosen() -> None:
    # Of 90 images, 20 % have a standard error of sqrt(0.2 * 0.8 / 90) = 4.2 %.
    assert chosen_share(check(s5=30.0, s6=20.0, s7=24.1, s8=24.3)) == 0.7
    assert chosen_share(check(s5=20.0, s6=24.3)) == 0.5
    # Nothing let in is not certainty: at least 1 % is taken for the error, 1.05 %.
    assert chosen_share(check(s5=0.0, s6=1.0)) == 0.6
    assert chosen_share(check(s5=0.0, s6=1.1)) == 0.5
    fusion = Calibration.fit(drawn(5, 200), check=check(s5=40.0, s9=20.0)).fusion
    assert (fusion.share(Family.CONFIDENCE), fusion.share(Family.DENSITY)) == (0.9, pytest.approx(0.1))


def test_a_family_without_a_score_leaves_its_share() -> None:
    scores = drawn(6, 200)
    curves = Calibration.fit(scores).curves
    fusion = Fusion.fit(curves, scores, members=CONFIDENCE)
    assert (fusion.share(Family.CONFIDENCE), fusion.share(Family.DENSITY)) == (1.0, 0.0)
    with pytest.raises(ValueError, match="no score is left"):
        Fusion.fit(curves, scores, members=())
    with pytest.raises(ValueError, match="no score is left"):
        Fusion.fit(curves, scores, members=DENSITY, share=1.0)


def test_the_plain_mean_of_scores() -> None:
    scores = drawn(7, 200)
    curves = Calibration.fit(scores).curves
    fusion = Fusion.average(curves, scores, NAMES)
    mean = np.mean([curves[name].surprise(scores[name]) for name in NAMES], axis=0)
    np.testing.assert_array_equal(np.argsort(fusion.score(curves, scores)), np.argsort(mean))


def test_refit_keeps_the_choice_and_renews_the_curves() -> None:
    auroc = {**dict.fromkeys(NAMES, 80.0), ScoreName.ICE: 31.0}
    calibration = Calibration.fit(drawn(8, 200), check=check(auroc, s5=40.0, s9=20.0))
    moved = {name: values + 5.0 for name, values in drawn(8, 200).items()}
    again = calibration.refit(moved)
    assert (again.fusion.scores, again.fusion.check) == (calibration.fusion.scores, calibration.fusion.check)
    assert again.fusion.share(Family.CONFIDENCE) == pytest.approx(0.9)
    np.testing.assert_allclose(again.score(moved), calibration.score(drawn(8, 200)), atol=1e-9)


def test_a_fusion_contradicting_itself_is_refused() -> None:
    amp, knn = ScoreName.AMP, ScoreName.KNN
    with pytest.raises(ValidationError, match="add up to 1"):
        Fusion(families=(part(Family.CONFIDENCE, 0.5, amp), part(Family.DENSITY, 0.4, knn)), curve=CURVE)
    with pytest.raises(ValidationError, match="only once"):
        Fusion(families=(part(Family.DENSITY, 0.5, amp), part(Family.DENSITY, 0.5, knn)), curve=CURVE)
    with pytest.raises(ValidationError, match="at least 1"):
        Fusion(families=(), curve=CURVE)
    with pytest.raises(ValidationError, match="at least 1"):
        part(Family.DENSITY, 1.0)
    with pytest.raises(ValidationError, match="greater than 0"):
        part(Family.DENSITY, 0.0, knn)


def test_json_keeps_the_check() -> None:
    calibration = Calibration.fit(drawn(9, 50), check=check(s5=40.0, s9=20.0))
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration

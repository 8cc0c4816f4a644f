from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve
from oodguard.core.errors import QualityError
from oodguard.core.fusion import FusedFamily, Fusion
from oodguard.core.scores import CERTIFIED, SCORES, Family, ScoreName
from oodguard.core.verdict import Outputs

NAMES = tuple(spec.name for spec in SCORES)
CLASSES = ("amber", "jade", "plum")
# 99 values: level of the r-th is r / 100, so the threshold at 0.95 is 95.
CURVE = QuantileCurve.fit(np.arange(1, 100))


def drawn(seed: int, count: int) -> dict[ScoreName, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=count) for name in NAMES}


def outputs(*rows: float, probabilities: tuple[float, ...] = (0.2, 0.7, 0.1)) -> Outputs:
    """One image per row, with every score at that value."""
    return Outputs(
        probabilities=np.tile(np.array(probabilities, dtype=np.float32), (len(rows), 1)),
        scores=np.tile(np.array(rows, dtype=np.float32)[:, None], (1, len(NAMES))),
    )


def test_fused_score_is_calibrated_on_itself() -> None:
    calibration = Calibration.fit(drawn(4, 500))
    accepted = np.mean(calibration.score(drawn(5, 5000)) <= calibration.thresholds(0.95).fused)
    assert accepted == pytest.approx(0.95, abs=0.025)


def test_densities_beyond_the_id_range_are_enough() -> None:
    calibration = Calibration.fit(drawn(5, 500))
    junk = {name: np.array([-3.0]) for name in NAMES}  # every head is sure ...
    assert calibration.score(junk)[0] <= calibration.thresholds(0.5).fused
    # ... of something far from all training images
    junk |= {spec.name: np.array([9.0]) for spec in SCORES if spec.family is Family.DENSITY}
    assert calibration.score(junk)[0] > calibration.thresholds(0.99).fused


def test_a_verdict_by_hand() -> None:
    calibration = Calibration.fit(dict.fromkeys(NAMES, np.arange(1.0, 100.0)))
    low, high = calibration.judge(outputs(40.0, 97.0), classes=CLASSES, accept=0.95, top_k=2)
    assert (low.label, low.class_index) == ("jade", 1)
    assert [c.label for c in low.top_k] == ["jade", "amber"]
    assert low.probability == pytest.approx(0.7)
    for verdict, value, is_ood in ((low, 40.0, False), (high, 97.0, True)):
        assert verdict.is_ood is is_ood
        assert verdict.certified_radius is None
        for score in verdict.scores.values():
            assert (score.value, score.threshold, score.is_ood) == (value, 95.0, is_ood)
    assert low.scores[ScoreName.PDS].percentile == pytest.approx(39.0)
    # All scores rank alike, and so do their means and F: 97 of 99 each.
    assert high.ood_score == calibration.fusion.curve.values[96]
    assert high.threshold == calibration.fusion.curve.threshold(0.95)


def test_a_score_on_its_threshold_is_in_distribution() -> None:
    calibration = Calibration.fit(dict.fromkeys(NAMES, np.arange(1.0, 100.0)))
    (on,) = calibration.judge(outputs(95.0), classes=CLASSES, accept=0.95)
    assert on.ood_score == on.threshold
    assert not on.is_ood
    assert not any(score.is_ood for score in on.scores.values())
    assert not calibration.flagged(outputs(95.0), accept=0.95).any()
    assert calibration.flagged(outputs(94.0, 95.0, 96.0), accept=0.95).tolist() == [False, False, True]


def test_the_certified_radius_is_the_way_to_the_threshold_over_the_lipschitz_constant() -> None:
    scores = dict.fromkeys((*NAMES, CERTIFIED.name), np.arange(1.0, 100.0))
    calibration = Calibration.fit(scores, lipschitz={CERTIFIED.name: 4.0})
    table = Outputs(
        probabilities=np.array([[0.5, 0.3, 0.2]] * 2, dtype=np.float32),
        scores=np.array([[50.0] * len(NAMES) + [value] for value in (35.0, 97.0)], dtype=np.float32),
    )
    near, far = calibration.judge(table, classes=CLASSES, accept=0.95, top_k=1)
    assert [len(verdict.top_k) for verdict in (near, far)] == [1, 1]
    half = calibration.model_copy(update={"lipschitz": {CERTIFIED.name: 0.5}})
    assert Calibration.model_validate(half.model_dump()).judge(table, classes=CLASSES)[0].certified_radius == 120.0
    assert near.certified_radius == pytest.approx((95 - 35) / 4)
    assert far.certified_radius == pytest.approx((97 - 95) / 4)


def test_what_cannot_be_promised_or_is_no_number_is_refused() -> None:
    calibration = Calibration.fit(dict.fromkeys(NAMES, np.arange(1.0, 100.0)))
    assert (calibration.samples, calibration.max_accept) == (99, pytest.approx(0.99))
    with pytest.raises(ValueError, match="accept"):
        calibration.judge(outputs(1.0), classes=CLASSES, accept=0.995)
    with pytest.raises(ValueError, match="top_k"):
        calibration.judge(outputs(1.0), classes=CLASSES, top_k=0)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(QualityError, match="not finite"):
            calibration.judge(outputs(bad), classes=CLASSES)
        with pytest.raises(QualityError, match="not finite"):
            calibration.judge(outputs(1.0, probabilities=(bad, 0.1, 0.1)), classes=CLASSES)
    short = outputs(1.0)
    wide = np.concatenate([short.scores, short.scores[:, :1]], axis=1)
    for wrong in (
        Outputs(probabilities=short.probabilities, scores=wide),
        Outputs(probabilities=short.probabilities[0], scores=short.scores),
        Outputs(probabilities=short.probabilities[None], scores=short.scores),
        Outputs(probabilities=np.concatenate([short.probabilities] * 2), scores=short.scores),
    ):
        with pytest.raises(QualityError, match="8 scores"):
            calibration.judge(wrong, classes=CLASSES)
    with pytest.raises(QualityError, match="8 scores"):
        calibration.judge(Outputs(probabilities=short.probabilities, scores=short.scores[:, :7]), classes=CLASSES)


def test_score_errors_are_relative_to_the_value_or_the_range() -> None:
    calibration = Calibration.fit(dict.fromkeys(NAMES, np.arange(1.0, 100.0)))
    expected = np.full((1, len(NAMES)), 0.0)
    np.testing.assert_allclose(calibration.score_errors(expected, expected + 0.98), 0.01)  # of a range of 98
    np.testing.assert_allclose(calibration.score_errors(expected + 980, expected + 980 - 9.8), 0.01)  # of the value
    np.testing.assert_allclose(calibration.score_errors(expected - 980, expected - 980 + 9.8), 0.01)
    narrow = Calibration.fit(dict.fromkeys(NAMES, np.linspace(0.0, 0.2, 99)))
    np.testing.assert_allclose(narrow.score_errors(expected, expected + 0.02), 0.1)
    constant = Calibration.fit(dict.fromkeys(NAMES, np.zeros(99)))
    assert np.isfinite(constant.score_errors(expected, expected)).all()


def test_a_calibration_contradicting_itself_is_refused() -> None:
    amp = FusedFamily(family=Family.CONFIDENCE, share=1.0, scores=(ScoreName.AMP,), curve=CURVE)
    fusion = Fusion(families=(amp,), curve=CURVE)
    with pytest.raises(ValidationError, match="amp has no quantile curve"):
        Calibration(curves={ScoreName.PDS: CURVE}, fusion=fusion)
    for constant in (0.0, -1.0):
        with pytest.raises(ValidationError, match="positive"):
            Calibration(curves={ScoreName.AMP: CURVE}, fusion=fusion, lipschitz={ScoreName.AMP: constant})


def test_json_keeps_the_order_of_the_scores() -> None:
    calibration = Calibration.fit(drawn(6, 50))
    again = Calibration.model_validate_json(calibration.model_dump_json())
    assert again == calibration
    assert again.names == NAMES


@pytest.mark.parametrize("count", [20, 60, 300])
def test_new_photos_set_thresholds_that_accept_exactly_what_they_promise(count: int) -> None:
    """Over 300 draws of so few photos of a source that scores 1.5 higher; with refitted score curves 20 keep 0.90."""
    before = Calibration.fit(drawn(8, 500))
    rng = np.random.default_rng(9)
    accepted = []
    for _ in range(300):
        table = (rng.normal(size=(count + 200, len(NAMES))) + 1.5).astype(np.float32)
        probabilities = np.full((len(table), 3), 1 / 3, dtype=np.float32)
        after = before.recalibrated(Outputs(probabilities=probabilities[:count], scores=table[:count]))
        fresh = Outputs(probabilities=probabilities[count:], scores=table[count:])
        accepted.append(1.0 - after.flagged(fresh, accept=0.9).mean())
    level = np.ceil(0.9 * (count + 1)) / (count + 1)
    assert np.mean(accepted) == pytest.approx(level, abs=4 * np.std(accepted) / np.sqrt(300))
    assert np.mean(accepted) > 0.89


def test_a_recalibration_moves_thresholds_and_percentiles_and_no_score() -> None:
    before = Calibration.fit(drawn(8, 500))
    table = np.stack(list(drawn(10, 99).values()), axis=1).astype(np.float32) + 2
    new = Outputs(probabilities=np.full((99, 3), 1 / 3, dtype=np.float32), scores=table)
    after = before.recalibrated(new)
    assert after.fused(new).tolist() == before.fused(new).tolist()
    assert after.thresholds(0.95).fused == np.sort(before.fused(new))[94]
    for column, (name, threshold) in enumerate(after.thresholds(0.95).scores):
        assert (name, threshold) == (NAMES[column], np.sort(table[:, column])[94])
    measured = after.measure(new)
    assert np.mean(measured.fused_percentiles) == pytest.approx(49, abs=1)
    assert np.asarray(measured.percentiles).mean(0) == pytest.approx(np.full(len(NAMES), 49), abs=1)
    with pytest.raises(ValueError, match="a calibration needs at least 20 photos; got 19"):
        before.recalibrated(Outputs(probabilities=new.probabilities[:19], scores=table[:19]))

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from oodguard.core.curve import QuantileCurve, confident_level


def test_threshold_is_the_conformal_order_statistic() -> None:
    curve = QuantileCurve.fit(np.arange(1, 100))  # 99 values: level of the r-th is r / 100
    assert curve.threshold(0.95) == 95
    assert curve.threshold(0.951) == 96
    assert curve.max_accept == pytest.approx(0.99)
    assert curve.threshold(0.99) == 99
    for wrong in (0.0, -1.0, 0.995, 1.0, 2.0):
        with pytest.raises(ValueError, match="accept"):
            curve.threshold(wrong)


def test_threshold_accepts_what_it_promises_on_new_data() -> None:
    rng = np.random.default_rng(0)
    accepted = [
        np.mean(rng.normal(size=4000) <= QuantileCurve.fit(rng.normal(size=200)).threshold(0.95)) for _ in range(60)
    ]
    assert 0.945 < np.mean(accepted) < 0.96


def test_percentile_counts_images_below() -> None:
    curve = QuantileCurve.fit([1.0, 2.0, 3.0])
    np.testing.assert_allclose(curve.percentile([0.5, 1.0, 1.5, 3.0, 3.5]), [0, 0, 25, 50, 100])


def test_a_large_sample_keeps_its_upper_tail_exactly() -> None:
    values = np.random.default_rng(1).normal(size=20_000)
    curve = QuantileCurve.fit(values)
    assert len(curve.levels) <= 1024
    assert curve.values[-1] == values.max()
    assert curve.threshold(0.999) == np.sort(values)[math.ceil(20_001 * 0.999) - 1]
    assert abs(curve.threshold(0.5) - np.median(values)) < 0.01


def test_surprise_is_exponential_on_id_data_and_keeps_growing() -> None:
    rng = np.random.default_rng(2)
    curve = QuantileCurve.fit(rng.gamma(2.0, size=1000))
    fresh = curve.surprise(rng.gamma(2.0, size=20_000))
    assert fresh.mean() == pytest.approx(1.0, abs=0.08)
    assert np.mean(fresh > 3.0) == pytest.approx(math.exp(-3), abs=0.015)
    far = curve.surprise([curve.values[-1], curve.values[-1] + 10, curve.values[-1] + 20])
    assert np.all(np.diff(far) > 1)
    assert far[2] - far[1] == pytest.approx(far[1] - far[0])


def test_surprise_never_falls_as_the_score_rises() -> None:
    curve = QuantileCurve.fit(np.random.default_rng(3).normal(size=77))
    assert np.all(np.diff(curve.surprise(np.linspace(-6, 6, 500))) >= 0)
    constant = QuantileCurve.fit(np.ones(30))
    assert np.isfinite(constant.surprise([0.0, 1.0, 2.0])).all()


@pytest.mark.parametrize("bad", [[1.0, float("nan")], [float("inf")]])
def test_curve_refuses_numbers_that_are_not_finite(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        QuantileCurve.fit(bad)


def test_curves_are_equal_by_what_was_measured_whatever_was_asked_of_them() -> None:
    one, same, other = (QuantileCurve.fit(scores) for scores in ([1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [1.0, 2.0, 4.0]))
    for curve in (one, same, other):
        curve.percentile([1.5])
        curve.surprise([1.5])
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "a curve"


def test_a_threshold_with_confidence_is_a_higher_order_statistic() -> None:
    """279 photos: rank 266 keeps 95 % on average, and rank 271 with a confidence of 90 %."""
    curve = QuantileCurve.fit(np.arange(1.0, 280.0))
    assert curve.threshold(0.95) == 266.0
    assert curve.threshold(0.95, confidence=0.9) == 271.0
    assert binom.cdf(270, 279, 0.95) >= 0.9 > binom.cdf(269, 279, 0.95)


@pytest.mark.parametrize(("accept", "confidence", "images"), [(0.9, 0.5, 40), (0.95, 0.99, 1000), (0.5, 0.9, 7)])
def test_the_confident_level_is_the_smallest_rank_that_is_sure_enough(
    accept: float, confidence: float, images: int
) -> None:
    rank = round(confident_level(accept, confidence, images) * (images + 1))
    assert binom.cdf(rank - 1, images, accept) >= confidence > binom.cdf(rank - 2, images, accept)


def test_near_duplicates_count_once_where_confidence_is_asked_for() -> None:
    values = np.repeat(np.arange(1.0, 101.0), 3)
    alone, grouped = QuantileCurve.fit(values), QuantileCurve.fit(values, independent=100)
    assert alone.threshold(0.9) == grouped.threshold(0.9)
    assert grouped.threshold(0.9, confidence=0.9) > alone.threshold(0.9, confidence=0.9)


def test_too_few_images_for_a_confidence_are_refused() -> None:
    curve = QuantileCurve.fit(np.arange(40.0))
    with pytest.raises(ValueError, match="40 independent calibration images cannot promise"):
        curve.threshold(0.95, confidence=0.9)


def test_how_often_the_promise_holds() -> None:
    rng = np.random.default_rng(0)
    kept = [QuantileCurve.fit(rng.uniform(size=279)).threshold(0.95, confidence=0.9) >= 0.95 for _ in range(3000)]
    average = [QuantileCurve.fit(rng.uniform(size=279)).threshold(0.95) for _ in range(3000)]
    assert np.mean(kept) == pytest.approx(binom.cdf(270, 279, 0.95), abs=0.015)
    assert np.mean(average) == pytest.approx(266 / 280, abs=0.002)

"""Shares, percentiles and accuracies without labels, against SciPy and against simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import kolmogorov as exact
from scipy.stats import betabinom, ks_2samp

from oodguard.core.answering import AnsweredPhotos
from oodguard.core.curve import QuantileCurve
from oodguard.core.resemblance import (
    EstimatedAccuracy,
    FlaggedShare,
    PercentileTest,
    flag_chances,
    kolmogorov,
    passing_level,
)


@pytest.mark.parametrize(("images", "rank", "photos"), [(50, 95, 99), (1000, 270, 279), (3, 1, 1), (200_000, 19, 20)])
def test_the_number_of_flags_is_beta_binomial(images: int, rank: int, photos: int) -> None:
    expected = betabinom.pmf(np.arange(images + 1), images, photos + 1 - rank, rank)
    assert flag_chances(images, rank, photos) == pytest.approx(expected, abs=1e-12, rel=1e-6)


def test_the_share_that_passes_is_that_of_the_threshold() -> None:
    curve = QuantileCurve.fit(np.arange(1.0, 20.0))
    assert passing_level(curve, curve.threshold(0.9)) == pytest.approx(0.9)
    assert passing_level(curve, 0.5) == 0.0
    assert passing_level(curve, 99.0) == pytest.approx(0.95)


def test_a_share_is_compared_with_what_so_few_photos_promise() -> None:
    curve = QuantileCurve.fit(np.arange(99.0))
    threshold = curve.threshold(0.95)
    as_promised = FlaggedShare.of(np.arange(1000) < 60, curve, threshold)
    assert as_promised.expected == pytest.approx(0.05)
    assert (as_promised.expected_low, as_promised.expected_high) == pytest.approx(
        tuple(betabinom.ppf([0.025, 0.975], 1000, 5, 95) / 1000)
    )
    assert as_promised.word == "as expected"
    many = FlaggedShare.of(np.arange(1000) < 620, curve, threshold)
    assert (many.share, many.word) == (0.62, "more than expected")
    assert many.p < 1e-9
    assert many.low < 0.62 < many.high
    few = FlaggedShare.of(np.arange(100_000) < 10, QuantileCurve.fit(np.arange(999.0)), 949.0)
    assert (few.word, few.flagged) == ("fewer than expected", 10)
    # With near-duplicates counted once, as many flags are less of a surprise.
    doubled = curve.model_copy(update={"independent": 20})
    assert FlaggedShare.of(np.arange(1000) < 120, curve, threshold).p < 0.02
    assert FlaggedShare.of(np.arange(1000) < 120, doubled, threshold).p > 0.05


def test_shares_as_promised_are_seldom_called_drift() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(1000):
        curve = QuantileCurve.fit(rng.exponential(size=60))
        threshold = curve.threshold(0.9)
        alarms += FlaggedShare.of(rng.exponential(size=400) > threshold, curve, threshold).word != "as expected"
    assert alarms <= 20
    assert alarms >= 1


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(("photos", "images"), [(60, 40), (300, 5000), (2000, 900)])
def test_the_test_of_percentiles_is_that_of_two_samples(photos: int, images: int, shift: float) -> None:
    rng = np.random.default_rng(photos)
    known, new = rng.normal(size=photos), rng.normal(size=images) + shift
    found = PercentileTest.of(new, QuantileCurve.fit(known))
    expected = ks_2samp(known, new, method="asymp")
    # Of 2,000 photos not every score is kept, so the distance may be a little smaller.
    assert found.distance == pytest.approx(expected.statistic, abs=0.004 if photos > 1024 else 1e-12)
    assert found.p == pytest.approx(ks_2samp(known, new).pvalue, abs=0.03)


def test_ties_are_no_drift() -> None:
    known, new = np.repeat([1.0, 2.0, 3.0], 40), np.repeat([1.0, 2.0, 3.0], 70)
    assert PercentileTest.of(new, QuantileCurve.fit(known)) == PercentileTest(distance=0.0, p=1.0)
    assert PercentileTest.of(np.full(50, 2.0), QuantileCurve.fit(known)).distance == pytest.approx(1 / 3)


def test_few_calibration_photos_are_no_drift() -> None:
    rng = np.random.default_rng(3)
    p = [PercentileTest.of(rng.normal(size=3000), QuantileCurve.fit(rng.normal(size=50))).p for _ in range(500)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("x", [0.1, 0.3, 0.8, 1.2, 2.5])
def test_kolmogorovs_distribution(x: float) -> None:
    assert kolmogorov(x) == pytest.approx(exact(x), abs=1e-9)


def photos(chance: np.ndarray, right: np.ndarray, fused: np.ndarray | None = None) -> AnsweredPhotos:
    zeros = np.zeros(len(chance)) if fused is None else fused
    return AnsweredPhotos(
        fused=tuple(zeros.tolist()),
        chance=tuple(chance.tolist()),
        right=tuple(right.tolist()),
        nonconformity=tuple((1 - chance).tolist()),
        weight=(1.0,) * len(chance),
    )


def test_the_accuracy_is_the_mean_chance_of_what_passes() -> None:
    known = photos(np.array([0.9, 0.8, 0.5, 0.6]), np.array([True, True, False, True]), np.array([0.0, 1.0, 2.0, 9.0]))
    found = EstimatedAccuracy.of(np.array([0.9, 0.7]), known, 5.0)
    assert found is not None
    assert (found.images, found.accuracy, found.reference) == (2, pytest.approx(0.8), pytest.approx(2 / 3))
    missed = np.array([0.1, 0.2, -0.5])
    variance = ((missed - missed.mean()) ** 2).sum() / 9 + (0.9 * 0.1 + 0.7 * 0.3) / 4
    assert found.low == pytest.approx(0.8 - 1.959964 * np.sqrt(variance))
    assert found.high == 1.0
    assert EstimatedAccuracy.of(np.array([]), known, 5.0) is None
    assert EstimatedAccuracy.of(np.array([0.9]), known, -1.0) is None


def test_the_estimate_is_nannymls() -> None:
    """What CBPE of nannyml 0.13.1 says of the same images: accuracy, with probabilities that it leaves as they are."""
    rng = np.random.default_rng(11)

    def images(count: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
        p = rng.dirichlet([spread] * 3, size=count)
        return p, np.array([rng.choice(3, p=row) for row in p])

    known, classes = images(2000, 0.4)
    new, _ = images(600, 0.8)
    reference = photos(known.max(1), known.argmax(1) == classes)
    found = EstimatedAccuracy.of(new.max(1), reference, 0.0)
    assert found is not None
    assert found.accuracy == pytest.approx(0.642288, abs=5e-7)
    assert found.reference == pytest.approx(0.735)
    # Its boundaries, 0.588236 to 0.69634, are three standard errors of its reference away; these hold 95 %, and the
    # chance of the calibration photos, too.
    assert (found.high - found.low) / (0.69634 - 0.588236) == pytest.approx(1.96 / 3, abs=0.12)


def test_the_band_holds_the_true_share_of_right_labels() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(1000):
        chance = rng.beta(6, 2, size=150)
        known = photos(chance, rng.random(150) < chance)
        # Harder images than the calibration photos, whose chances still hold.
        harder = rng.beta(3, 2, size=400)
        right = (rng.random(400) < harder).mean()
        found = EstimatedAccuracy.of(harder, known, 0.0)
        assert found is not None
        inside += found.low <= right <= found.high
    assert 930 <= inside <= 1000

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_curve

from oodguard.training.metrics import (
    auroc_change,
    auroc_interval,
    calibration_error,
    detection,
    placements,
    reliability,
    share,
    share_change,
)


def test_both_meanings_of_fpr95_by_hand() -> None:
    inside = np.arange(100.0)  # 95 % of ID are accepted at 94
    outside = np.array([50.0, 94.0, 95.0, 96.0, *np.full(96, 200.0)])
    found = detection(inside, outside, threshold=97.0)
    assert found.ood_accepted_at_95_id == pytest.approx(0.02)
    # 95 % of OOD score at least 200, which no ID image does.
    assert found.id_flagged_at_95_ood == 0.0
    assert found.ood_flagged == pytest.approx(0.96)
    assert found.ood_prevalence == 0.5


def test_orientation_is_higher_is_ood() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 1, 500), rng.normal(3, 1, 300)
    assert detection(inside, outside, 0.0).auroc > 0.97
    assert detection(outside, inside, 0.0).auroc < 0.03
    assert detection(inside, outside, 0.0).aupr_out > 0.9


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(size=60), rng.normal(0.5, size=50)
    pairs = (outside[:, None] > inside[None, :]).mean()
    assert detection(inside, outside, 0.0).auroc == pytest.approx(pairs)


@pytest.mark.parametrize("seed", range(298, 301))
def test_complete_separation_is_no_more_than_complete(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inside, outside = (start + rng.random(count) for start, count in zip((0, 2), rng.integers(5, 80, 2), strict=True))
    measured = detection(inside, outside, threshold=1.5)
    assert (measured.auroc, measured.aupr_in, measured.aupr_out) == (1.0, pytest.approx(1.0), pytest.approx(1.0))
    assert max(measured.aupr_in, measured.aupr_out) <= 1.0


def test_share_has_the_exact_interval() -> None:
    found = share(np.array([True] * 95 + [False] * 5))
    assert (found.share, found.of) == (0.95, 100)
    assert found.low == pytest.approx(0.8872, abs=1e-4)
    assert found.high == pytest.approx(0.9836, abs=1e-4)
    assert share(np.ones(10, dtype=bool)).high == 1.0
    assert share(np.zeros(10, dtype=bool)).low == 0.0


def test_a_change_of_shares_by_hand() -> None:
    before = np.array([True] * 30 + [False] * 70)
    after = np.array([True] * 28 + [False] * 2 + [True] * 12 + [False] * 58)
    found = share_change(before, after)
    # Bonett and Price with 12 gained and 2 lost of 100: (13 - 3) / 102 and its spread.
    assert found.change == pytest.approx(0.10)
    spread = 1.959964 * math.sqrt((16 / 102 - (10 / 102) ** 2) / 102)
    assert (found.low, found.high) == pytest.approx((10 / 102 - spread, 10 / 102 + spread))
    mirrored = share_change(after, before)
    assert (mirrored.change, mirrored.low, mirrored.high) == pytest.approx((-0.10, -found.high, -found.low))
    same = share_change(before, before)
    assert same.change == 0.0
    assert same.low == -same.high != 0.0
    every = share_change(np.zeros(50, dtype=bool), np.ones(50, dtype=bool))
    assert (every.change, every.high) == (1.0, 1.0)
    assert 0.85 < every.low < 1.0


def test_paired_intervals_cover_the_true_change() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(1000):
        common = rng.uniform(size=120)
        before = common + 0.1 * rng.normal(size=120) < 0.3
        after = common + 0.1 * rng.normal(size=120) < 0.3
        found = share_change(before, after)
        hits += found.low <= 0.0 <= found.high
    assert hits / 1000 == pytest.approx(0.955, abs=0.02)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10, dtype=np.float32)
    targets = np.array([0] * 6 + [1] * 4)
    assert calibration_error(probabilities, targets) == pytest.approx(0.3, abs=1e-6)


def test_bins_of_confidence_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05]] * 4 + [[0.55, 0.45]] * 2, dtype=np.float32)
    targets = np.array([0, 0, 0, 1, 1, 1])
    low, high = reliability(probabilities, targets, bins=10)
    assert (low.low, low.high, low.accuracy.share, low.accuracy.of) == (0.5, 0.6, 0.0, 2)
    assert (high.low, high.high, high.accuracy.share, high.accuracy.of) == (0.9, 1.0, 0.75, 4)
    assert high.confidence == pytest.approx(0.95)
    expected = (2 * 0.55 + 4 * (0.95 - 0.75)) / 6
    assert calibration_error(probabilities, targets, bins=10) == pytest.approx(expected)


def test_placements_average_to_the_auroc() -> None:
    v_id, v_ood = placements(np.array([1.0, 3.0]), np.array([2.0, 3.0, 4.0]))
    np.testing.assert_allclose(v_id, [1.0, 0.5])  # above 3 is one of three, and one ties
    np.testing.assert_allclose(v_ood, [0.5, 0.75, 1.0])
    assert v_id.mean() == pytest.approx(v_ood.mean())


def test_auroc_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    truth = 0.760  # of N(1, 1) against N(0, 1): Phi(1 / sqrt 2)
    hits = []
    for _ in range(400):
        low, high = auroc_interval(rng.normal(size=80), rng.normal(1.0, size=60))
        assert 0 < low < high < 1
        hits.append(low <= truth <= high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)


def test_complete_separation_still_has_an_interval() -> None:
    low, high = auroc_interval(np.arange(30.0), np.arange(100.0, 150.0))
    assert high == 1.0
    assert low == pytest.approx(0.025 ** (1 / 30))
    assert auroc_interval(np.arange(100.0, 130.0), np.arange(50.0))[0] == 0.0


def test_auroc_change_pairs_the_images() -> None:
    rng = np.random.default_rng(4)
    inside, outside = rng.normal(size=200), rng.normal(1.0, size=150)
    same = auroc_change((inside, outside), (inside, outside))
    assert (same.change, same.low, same.high) == (0.0, 0.0, 0.0)
    noisy = inside + rng.normal(size=200), outside + rng.normal(size=150)
    found = auroc_change((inside, outside), noisy)
    assert found.low < found.change < found.high < 0.05
    both = [np.subtract(*reversed(auroc_interval(*pair))) for pair in ((inside, outside), noisy)]
    assert found.high - found.low < np.hypot(*both)


@pytest.mark.parametrize("decimals", [6, 1])  # the latter with ties
def test_both_meanings_of_fpr95_against_the_roc_curve(decimals: int) -> None:
    rng = np.random.default_rng(5)
    inside, outside = rng.normal(size=700).round(decimals), rng.normal(1.2, 0.8, size=450).round(decimals)
    found = detection(inside, outside, threshold=0.0)
    truth, values = np.repeat([0, 1], [700, 450]), np.concatenate([inside, outside])
    for positive, sign, measured in (
        (1, 1.0, found.id_flagged_at_95_ood),
        (0, -1.0, found.ood_accepted_at_95_id),
    ):
        false, true, _ = roc_curve(truth == positive, sign * values, drop_intermediate=False)
        assert measured == pytest.approx(false[np.argmax(true >= 0.95)])
    assert found.id_flagged_at_95_ood != found.ood_accepted_at_95_id
    precision, recall, _ = precision_recall_curve(truth == 0, -values)
    assert found.aupr_in == pytest.approx(-np.sum(np.diff(recall) * precision[:-1]))
    precision, recall, _ = precision_recall_curve(truth, values)
    assert found.aupr_out == pytest.approx(-np.sum(np.diff(recall) * precision[:-1]))

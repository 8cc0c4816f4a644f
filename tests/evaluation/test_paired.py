"""Paired shares: exact McNemar, Bonett and Price, and near-duplicates that change together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from oodguard.evaluation.paired import PairedShare, paired_change, sign_flip_p
from oodguard.training.metrics import share_change


def flags(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """So many images with the property both times, only before, only after, never."""
    before = np.repeat([True, True, False, False], counts)
    after = np.repeat([True, False, True, False], counts)
    return before, after


@pytest.mark.parametrize("counts", [(50, 3, 9, 38), (10, 0, 6, 4), (90, 0, 0, 10), (5, 12, 1, 2)])
def test_without_near_duplicates_it_is_mcnemars_test_and_bonett_and_prices_interval(counts: tuple[int, ...]) -> None:
    before, after = flags(*counts)
    found = paired_change(before, after, np.arange(len(before)))
    lost, gained = counts[1], counts[2]
    assert (found.gained, found.lost) == (gained, lost)
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert found.p == pytest.approx(expected)
    interval = share_change(before, after)
    assert (found.change, found.low, found.high) == pytest.approx((interval.change, interval.low, interval.high))
    assert found.significant == (expected < 0.05)


def test_the_sign_flips_are_all_counted() -> None:
    nets = np.array([3, -1, 2, 0, 2])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1)
    sums = np.abs((signs * np.abs(nets)[:, None]).sum(0))
    assert sign_flip_p(nets) == pytest.approx(np.mean(sums >= 6))
    assert sign_flip_p(np.array([0, 0])) == 1.0
    assert sign_flip_p(np.array([2, -2])) == 1.0


def test_copies_of_one_photo_are_one_piece_of_evidence() -> None:
    before, after = flags(40, 2, 8, 10)
    apart = paired_change(before, after, np.arange(60))
    six = [np.repeat(values, 6) for values in (before, after)]
    copied = paired_change(six[0], six[1], np.repeat(np.arange(60), 6))
    assert copied.p == pytest.approx(apart.p)
    assert copied.change == pytest.approx(apart.change)
    assert copied.high - copied.low == pytest.approx(apart.high - apart.low, rel=0.15)
    naive = paired_change(six[0], six[1], np.arange(360))
    assert naive.p < 1e-4 < copied.p
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_the_interval_holds_the_true_change() -> None:
    rng = np.random.default_rng(4)
    inside = false_alarms = 0
    for _ in range(1000):
        groups = np.repeat(np.arange(60), rng.integers(1, 4, 60))
        kind = rng.choice(3, 60, p=[0.1, 0.1, 0.8])
        before, after = (kind == 1)[groups], (kind == 0)[groups]
        found = paired_change(before, after, groups)
        inside += found.low <= 0.0 <= found.high
        false_alarms += found.significant
    assert 920 <= inside <= 990
    assert 5 <= false_alarms <= 60


def test_a_paired_share_has_both_shares() -> None:
    before, after = flags(50, 3, 9, 38)
    found = PairedShare.of(before, after, np.arange(100))
    assert (found.before.share, found.after.share, found.change.change) == (0.53, 0.59, pytest.approx(0.06))

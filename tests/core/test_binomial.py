from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, betabinom, binom

from oodguard.core.binomial import acceptance_interval, promised_acceptance, share_interval, upper_limit


@pytest.mark.parametrize(("count", "of"), [(0, 20), (20, 20), (7, 20), (950, 1000), (1, 1)])
def test_an_interval_is_that_of_the_beta_distribution(count: int, of: int) -> None:
    low, high = share_interval(count, of)
    assert low == pytest.approx(beta.ppf(0.05, count, of - count + 1) if count else 0.0, abs=1e-9)
    assert high == pytest.approx(beta.ppf(0.95, count + 1, of - count) if count < of else 1.0, abs=1e-9)


@pytest.mark.parametrize(("rank", "of"), [(20, 20), (57, 60), (951, 1000)])
def test_what_a_threshold_accepts_is_spread_over_calibration_sets(rank: int, of: int) -> None:
    found = acceptance_interval(rank, of, chance=0.8)
    assert found == pytest.approx(beta.ppf([0.1, 0.9], rank, of + 1 - rank), abs=1e-9)


@pytest.mark.parametrize(("count", "of", "chance"), [(2, 10, 0.3), (0, 5, 0.1), (50, 1000, 1e-6), (900, 1000, 0.99)])
def test_a_limit_is_where_the_binomial_tail_has_its_chance(count: int, of: int, chance: float) -> None:
    assert binom.cdf(count, of, upper_limit(count, of, chance=chance)) == pytest.approx(chance, rel=1e-6)


def test_promised_acceptance_covers_what_happens() -> None:
    rng = np.random.default_rng(2)
    low, high = promised_acceptance(0.95, 99)
    hits = [low <= np.sort(rng.uniform(size=99))[94] <= high for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_promised_acceptance_of_so_many_images_covers_what_happens() -> None:
    rng = np.random.default_rng(3)
    low, high = promised_acceptance(0.95, 99, tested=200)
    wide = promised_acceptance(0.95, 99)
    assert low < wide[0] < wide[1] < high
    accepted = [np.mean(rng.uniform(size=200) <= np.sort(rng.uniform(size=99))[94]) for _ in range(2000)]
    inside = np.mean([low <= share <= high for share in accepted])
    assert inside == pytest.approx(0.96, abs=0.02)
    assert np.mean([wide[0] <= share <= wide[1] for share in accepted]) < 0.93
    # With ever more images their own chance no longer counts.
    np.testing.assert_allclose(promised_acceptance(0.95, 99, tested=200_000), wide, atol=1e-3)


@pytest.mark.parametrize(("accept", "samples", "tested"), [(0.95, 100, 240), (0.5, 7, 3), (0.99, 5000, 20_000)])
def test_a_promise_for_so_many_images_is_that_of_the_beta_binomial_distribution(
    accept: float, samples: int, tested: int
) -> None:
    rank = min(int(np.ceil((samples + 1) * accept - 1e-9)), samples)
    expected = betabinom.ppf([0.025, 0.975], tested, rank, samples + 1 - rank) / tested
    assert promised_acceptance(accept, samples, tested=tested) == pytest.approx(tuple(expected))

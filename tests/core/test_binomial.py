from __future__ import annotations

import pytest
from scipy.stats import beta, binom

from oodguard.core.binomial import acceptance_interval, share_interval, upper_limit


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

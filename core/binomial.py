"""Intervals of shares, from exact binomial tails. No SciPy: servers have none."""

from __future__ import annotations

import math
from collections.abc import Callable

STEPS = 60


def share_interval(count: int, of: int, *, chance: float = 0.9) -> tuple[float, float]:
    """What the true share may be where `count` of `of` independent images have a property (Clopper-Pearson 1934)."""
    tail = (1.0 - chance) / 2.0
    low = 0.0 if count == 0 else _solve(lambda share: at_least(count, of, share), tail)
    high = 1.0 if count == of else _solve(lambda share: at_least(count + 1, of, share), 1.0 - tail)
    return low, high


def acceptance_interval(rank: int, of: int, *, chance: float = 0.9) -> tuple[float, float]:
    """The share of new images at or below the `rank`-th smallest of `of` scores, which is Beta(rank, of + 1 - rank).

    The middle `chance` of that distribution over calibration sets.
    """
    tail = (1.0 - chance) / 2.0

    def reached(share: float) -> float:
        return at_least(rank, of, share)

    return _solve(reached, tail), _solve(reached, 1.0 - tail)


def at_least(count: int, of: int, share: float) -> float:
    """P(Binomial(of, share) >= count)."""
    if count <= 0:
        return 1.0
    if not 0.0 < share < 1.0:
        return float(share >= 1.0)
    yes, no = math.log(share), math.log1p(-share)
    whole = math.lgamma(of + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * yes + (of - k) * no)
        for k in range(count, of + 1)
    )


def _solve(rising: Callable[[float], float], value: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2.0

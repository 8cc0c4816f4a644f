"""Limits and intervals of shares, from exact binomial tails. No SciPy: servers have none."""

from __future__ import annotations

import math

import numpy as np

PRECISION = 1e-12


def upper_limit(count: int, of: int, *, chance: float) -> float:
    """The share p with `P(Binomial(of, p) <= count) = chance`: Clopper and Pearson's upper limit (1934).

    It is the quantile of Beta(count + 1, of - count) that is exceeded with probability `chance`.
    """
    # At every share that is tried, terms further down are below the rounding of those that are kept.
    spread = 6 * math.isqrt(of) + 32
    counts = np.arange(max(0, count - 2 * spread), count + 1, dtype=np.float64)
    first = float(counts[0])
    start = math.lgamma(of + 1) - math.lgamma(first + 1) - math.lgamma(of - first + 1)
    ways = start + np.concatenate([[0.0], np.cumsum(np.log(of - counts[1:] + 1) - np.log(counts[1:]))])
    low, high = max(0.0, (count - spread) / of), 1.0
    while high - low > PRECISION:
        share = (low + high) / 2
        logs = ways + counts * math.log(share) + (of - counts) * math.log1p(-share)
        low, high = (share, high) if np.exp(logs).sum() > chance else (low, share)
    return high


def share_interval(count: int, of: int, *, chance: float = 0.9) -> tuple[float, float]:
    """What the true share may be where `count` of `of` independent images have a property (Clopper-Pearson 1934)."""
    tail = (1.0 - chance) / 2.0
    low = 0.0 if count == 0 else 1.0 - upper_limit(of - count, of, chance=tail)
    high = 1.0 if count == of else upper_limit(count, of, chance=tail)
    return low, high


def acceptance_interval(rank: int, of: int, *, chance: float = 0.9) -> tuple[float, float]:
    """The share of new images at or below the `rank`-th smallest of `of` scores, which is Beta(rank, of + 1 - rank).

    The middle `chance` of that distribution over calibration sets.
    """
    tail = (1.0 - chance) / 2.0
    return upper_limit(rank - 1, of, chance=1.0 - tail), upper_limit(rank - 1, of, chance=tail)

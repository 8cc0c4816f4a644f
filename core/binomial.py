"""Limits and intervals of shares, from exact binomial tails. No SciPy: servers have none."""

from __future__ import annotations

import math

import numpy as np

PRECISION = 1e-12
# Ranks are multiples of 1 / (n + 1) that have been a percentage in between.
ROUNDING = 1e-9


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


def promised_acceptance(accept: float, samples: int, *, tested: int | None = None) -> tuple[float, float]:
    """Where the acceptance of new ID images lies with 95 % probability, given a threshold from `samples` of them.

    The r-th of n order statistics accepts a Beta(r, n + 1 - r) share, with r = ceil((n + 1) accept) (split conformal
    prediction; exchangeable images are assumed: near-duplicates count once). tested: how many new images there are;
    their own chance widens the interval (a beta-binomial share). None: as many as there may be.

    ```python
    promised_acceptance(0.95, 279)  # 0.922 to 0.973
    promised_acceptance(0.95, 279, tested=200)  # 0.91 to 0.985
    ```
    """
    rank = min(math.ceil((samples + 1) * accept - ROUNDING), samples)
    if tested is None:
        return acceptance_interval(rank, samples, chance=0.95)
    rest = samples + 1 - rank
    counts = np.arange(tested, dtype=np.float64)
    # The chance that none is accepted, and then each chance as a multiple of the one before.
    none = math.lgamma(tested + rest) - math.lgamma(rest) + math.lgamma(samples + 1) - math.lgamma(tested + samples + 1)
    steps = np.log((tested - counts) * (counts + rank)) - np.log((counts + 1) * (tested - counts - 1 + rest))
    below = np.cumsum(np.exp(none + np.concatenate([[0.0], np.cumsum(steps)])))
    low, high = np.searchsorted(below, (0.025, 0.975))
    return float(low / tested), float(min(high, tested) / tested)

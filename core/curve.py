"""The quantile curve of one score on held-out ID images: its thresholds, percentiles and surprise. NumPy only."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from oodguard.core.frozen import Frozen

Scores = npt.NDArray[np.float64]

MAX_LEVELS = 1024
TAIL_LEVEL = 0.9


class QuantileCurve(Frozen):
    """Order statistics of one score on `samples` held-out ID images.

    `values[i]` is the score that a new ID image stays at or below with probability at least `levels[i]`, where level
    `r / (n + 1)` belongs to the r-th smallest of n scores (split conformal prediction). Up to 1,024 of them are kept,
    all of the upper tail among them, or as many as `fit` is told.
    """

    samples: int = Field(ge=1)
    independent: int | None = Field(
        None, ge=1, description="groups of near-duplicates among the samples; none: each is one of its own"
    )
    levels: tuple[float, ...]
    values: tuple[float, ...]

    @model_validator(mode="after")
    def _monotone(self) -> QuantileCurve:
        if self.independent is not None and self.independent > self.samples:
            raise ValueError("there cannot be more independent images than images")
        if not self.levels or len(self.levels) != len(self.values):
            raise ValueError("levels and values must have the same length, at least 1")
        if not all(map(math.isfinite, self.values)):
            raise ValueError("values must be finite")
        if any(b <= a for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError("levels must increase")
        if any(b < a for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ValueError("values must not decrease")
        return self

    @classmethod
    def fit(cls, scores: npt.ArrayLike, *, independent: int | None = None, most: int = MAX_LEVELS) -> QuantileCurve:
        """The curve of one score's values on held-out ID images, `[n]`.

        independent: groups of near-duplicates. most: order statistics to keep; half of them are the largest.
        """
        ordered = np.sort(np.asarray(scores, dtype=np.float64).ravel())
        n = len(ordered)
        ranks = np.arange(1, n + 1)
        if n > most:
            tail = most // 2
            body = np.linspace(1, n - tail, most - tail).round().astype(int)
            ranks = np.unique(np.concatenate([body, ranks[-tail:]]))
        return cls(
            samples=n,
            independent=independent,
            levels=tuple((ranks / (n + 1)).tolist()),
            values=tuple(ordered[ranks - 1].tolist()),
        )

    @cached_property
    def _levels(self) -> Scores:
        return np.asarray(self.levels, dtype=np.float64)

    @cached_property
    def _values(self) -> Scores:
        return np.asarray(self.values, dtype=np.float64)

    @cached_property
    def _percents(self) -> Scores:
        return 100.0 * np.concatenate([[0.0], self._levels[:-1], [1.0]])

    @cached_property
    def knee(self) -> int:
        """The index of the 90 % point, from which `surprise` follows its tail."""
        return min(int(np.searchsorted(self._levels, TAIL_LEVEL, side="left")), len(self.values) - 1)

    @cached_property
    def tail(self) -> tuple[float, float, float]:
        """The value at the knee, the surprise there, and the mean excess above it: the constants of `surprise`."""
        curve, start = self._values, self.knee
        excess = curve[start + 1 :] - curve[start]
        spread = max(float(curve[-1] - curve[0]), 1e-9)
        scale = max(float(excess.mean()) if len(excess) else 0.0, 1e-3 * spread)
        return float(curve[start]), float(-np.log1p(-self._levels[start])), scale

    @property
    def max_accept(self) -> float:
        """The highest acceptance this many calibration images can promise: n / (n + 1)."""
        return self.levels[-1]

    def highest(self, confidence: float | None) -> float:
        """The highest acceptance that can be promised with `confidence`, on average without one.

        All n scores stay below the largest, which accepts a Beta(n, 1) share: at least `a` with probability 1 - a^n.
        """
        if confidence is None:
            return self.max_accept
        images = self.independent or self.samples
        return min(self.max_accept, math.pow(1.0 - confidence, 1.0 / images))

    def threshold(self, accept: float, *, confidence: float | None = None) -> float:
        """The score above which an image is flagged, so that a fraction `accept` of ID images is not.

        The smallest kept order statistic that reaches `level`: the conformal choice, never interpolated. Raises
        `ValueError` as `level` does.
        """
        return self.values[bisect_left(self.levels, self.level(accept, confidence=confidence) - 1e-12)]

    def level(self, accept: float, *, confidence: float | None = None) -> float:
        """The level that the threshold at `accept` has to reach.

        `accept` itself keeps `accept` on average over calibration sets; with a `confidence`, the level is higher, so
        that `accept` is kept with that probability (`confident_level`; near-duplicates count as one image there).
        Raises `ValueError` when `accept` is not in (0, `max_accept`], or so few images cannot be so confident.
        """
        if not 0.0 < accept <= self.max_accept:
            raise ValueError(
                f"accept must be above 0 and at most {self.max_accept:.4f} "
                f"(calibrated on {self.samples} images); got {accept:g}"
            )
        if confidence is None:
            return accept
        images = self.independent or self.samples
        level = confident_level(accept, confidence, images)
        if level > self.max_accept:
            raise ValueError(
                f"{images} independent calibration images cannot promise to accept {accept:g} with confidence "
                f"{confidence:g}; ask for less of either"
            )
        return level

    def percentile(self, values: npt.ArrayLike) -> Scores:
        """Share of ID images, in percent, that score below `values`; 0 to 100, same shape."""
        # side="left": the number of kept order statistics strictly below the value; above all of them, 100.
        return self._percents[np.searchsorted(self._values, np.asarray(values, dtype=np.float64), side="left")]

    def percentile_of(self, value: float) -> float:
        """As `percentile`, of one value, in a microsecond."""
        place = bisect_left(self.values, value)
        return 100.0 * self.levels[place - 1] if 0 < place < len(self.values) else 100.0 * (place > 0)

    def p_value(self, values: npt.ArrayLike) -> Scores:
        """The conformal p-value of each value, same shape: how likely a new ID image scores at least as high.

        `(1 + number of the n scores that are as high) / (n + 1)`, rounded up where not all scores are kept. Uniform or
        larger on ID images, over calibration sets and images together.
        """
        below = np.searchsorted(self._values, np.asarray(values, dtype=np.float64), side="left")
        return np.asarray(1.0 - np.concatenate([[0.0], self._levels])[below], dtype=np.float64)

    def surprise(self, values: npt.ArrayLike) -> Scores:
        """How unusual a value is on ID data: `-log P(ID score >= value)`, in nats; same shape.

        By the empirical curve up to its 90 % point t; above it by an exponential tail whose mean excess over t is
        fitted there (peaks over threshold), so that it goes on growing beyond the largest calibration score, where
        every percentile says 100. On ID data it is exponential with mean 1, whatever the score's own units.
        """
        x = np.asarray(values, dtype=np.float64)
        knee, base, scale = self.tail
        body = -np.log1p(-np.interp(x, self._values, self._levels, left=0.0))
        return np.asarray(np.where(x <= knee, np.minimum(body, base), base + (x - knee) / scale), dtype=np.float64)


@lru_cache(1024)
def confident_level(accept: float, confidence: float, images: int) -> float:
    """The level r / (n + 1) whose order statistic accepts at least `accept` of ID images with probability `confidence`.

    The r-th smallest of n scores accepts a Beta(r, n + 1 - r) share of new images (Vovk 2012), which is at least `a`
    with probability P(Binomial(n, a) <= r - 1); r is the smallest rank for which that reaches `confidence`. More than
    1 where no rank does.
    """
    k = np.arange(images)
    steps = np.log((images - k) / (k + 1)) + math.log(accept) - math.log1p(-accept)
    chances = np.exp(images * math.log1p(-accept) + np.concatenate([[0.0], np.cumsum(steps)]))
    rank = int(np.searchsorted(np.cumsum(chances), confidence - 1e-12)) + 1
    return rank / (images + 1)

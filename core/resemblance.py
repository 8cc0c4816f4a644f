"""Whether judged images are like the calibration photos, and how many labels are right, without labels. NumPy only."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Self

import numpy as np
import numpy.typing as npt

from oodguard.core.answering import AnsweredPhotos
from oodguard.core.binomial import share_interval
from oodguard.core.curve import QuantileCurve, Scores
from oodguard.core.frozen import Frozen

# Of an interval.
CHANCE = 0.95
# Below this chance, images like the calibration photos are no explanation.
ALARM = 0.01
NORMAL_95 = 1.959963984540054
ROUNDING = 1e-9

Flags = npt.NDArray[np.bool_]


class FlaggedShare(Frozen):
    """How many images are flagged, and how many of as many images like the calibration photos would be.

    low, high: 95 % interval of the share (Clopper-Pearson). expected_low, expected_high: where the share of as many
    images lies in 95 of 100 cases. p: the chance of a share so far from the expected one.
    """

    flagged: int
    images: int
    share: float
    low: float
    high: float
    expected: float
    expected_low: float
    expected_high: float
    p: float

    @classmethod
    def of(cls, flags: Flags, curve: QuantileCurve, threshold: float) -> Self:
        """Compare with the chance to be flagged at a threshold of the curve."""
        count, images = int(flags.sum()), len(flags)
        photos = curve.independent or curve.samples
        level = passing_level(curve, threshold)
        rank = min(max(math.floor(level * (photos + 1) + ROUNDING), 1), photos)
        below = np.cumsum(flag_chances(images, rank, photos))
        tail = (1.0 - CHANCE) / 2.0
        least, most = np.searchsorted(below, (tail, 1.0 - tail))
        upper = 1.0 - (below[count - 1] if count else 0.0)
        low, high = share_interval(count, images, chance=CHANCE)
        return cls(
            flagged=count,
            images=images,
            share=count / images,
            low=low,
            high=high,
            expected=1.0 - level,
            expected_low=float(least / images),
            expected_high=float(min(most, images) / images),
            p=float(np.clip(2.0 * min(below[count], upper), 0.0, 1.0)),
        )

    @property
    def word(self) -> str:
        """Whether more or fewer images are flagged than chance explains."""
        if self.p >= ALARM:
            return "as expected"
        return "more than expected" if self.share > self.expected else "fewer than expected"


def passing_level(curve: QuantileCurve, threshold: float) -> float:
    """The share of images like the calibration photos that passes a threshold."""
    kept = bisect_right(curve.values, threshold)
    return curve.levels[kept - 1] if kept else 0.0


def flag_chances(images: int, rank: int, photos: int) -> Scores:
    """The chance of 0 to `images` flags, `[images + 1]`, at the `rank`-th smallest of `photos` calibration scores.

    The share of images above it is Beta(photos + 1 - rank, rank) over calibration photos, so the number of flags is
    beta-binomial: what few photos leave open is in it.
    """
    a, b = photos + 1 - rank, rank
    k = np.arange(images)
    steps = np.log((images - k) / (k + 1.0)) + np.log((a + k) / (b + images - k - 1.0))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    chances = np.exp(logs - logs.max())
    return np.asarray(chances / chances.sum())


class PercentileTest(Frozen):
    """Kolmogorov and Smirnov's test that the images' fused scores are distributed as the calibration photos' are.

    For those the percentiles are uniform. distance: the largest difference of the two distribution functions, 0 to 1.
    p: the chance of so large a one, with near-duplicates among the calibration photos counted once; both samples are
    finite, so a calibration on few photos is no drift.
    """

    distance: float
    p: float

    @classmethod
    def of(cls, fused: Scores, curve: QuantileCurve) -> Self:
        """Compare fused scores `[N]` with the curve."""
        n = curve.samples
        ranks = np.rint(np.asarray(curve.levels) * (n + 1))
        values, first = np.unique(np.asarray(curve.values), return_index=True)
        last = np.append(first[1:], len(curve.values)) - 1
        ordered = np.sort(fused)
        at = np.searchsorted(ordered, values, side="right") / len(fused)
        before = np.searchsorted(ordered, values, side="left") / len(fused)
        distance = float(max(np.abs(at - ranks[last] / n).max(), np.abs(before - (ranks[first] - 1) / n).max()))
        photos = curve.independent or n
        size = math.sqrt(photos * len(fused) / (photos + len(fused)))
        # Stephens' correction (1970) of the limiting distribution for finite samples.
        return cls(distance=distance, p=kolmogorov((size + 0.12 + 0.11 / size) * distance))


def kolmogorov(x: float) -> float:
    """`P(K > x)` of Kolmogorov's distribution: `2 sum_k (-1)^(k-1) exp(-2 k^2 x^2)`."""
    if x < 0.2:
        return 1.0
    k = np.arange(1, 101)
    return float(np.clip(2.0 * (np.where(k % 2, 1.0, -1.0) * np.exp(-2.0 * k**2 * x**2)).sum(), 0.0, 1.0))


class EstimatedAccuracy(Frozen):
    """The share of right labels among the images that pass, without knowing one label.

    A label's probability is the chance that it is right, so their mean is the share of right labels to expect: the
    confidence-based performance estimation of NannyML (CBPE). low, high: 95 % band; it has the chance of so many
    images, and of the calibration photos to which the probabilities were fitted. reference: the share of right labels
    among the calibration photos that pass.

    It holds where the images are other mixtures of what the calibration photos show. It cannot see that a label means
    something else now.
    """

    images: int
    accuracy: float
    low: float
    high: float
    reference: float

    @classmethod
    def of(cls, chances: Scores, photos: AnsweredPhotos, threshold: float) -> Self | None:
        """From the chances `[N]` of the images that pass; None where none do, or no calibration photo does."""
        passed = np.asarray(photos.fused) <= threshold
        if not len(chances) or not passed.any():
            return None
        right = np.asarray(photos.right, dtype=np.float64)[passed]
        weights = np.asarray(photos.weight)[passed]
        weights = weights / weights.sum()
        missed = right - np.asarray(photos.chance)[passed]
        centred = missed - weights @ missed
        of_calibration = float((weights**2) @ (centred**2))
        of_images = float((chances * (1.0 - chances)).sum()) / len(chances) ** 2
        estimate = float(chances.mean())
        spread = NORMAL_95 * math.sqrt(of_calibration + of_images)
        return cls(
            images=len(chances),
            accuracy=estimate,
            low=max(0.0, estimate - spread),
            high=min(1.0, estimate + spread),
            reference=float(weights @ right),
        )


def drifted(flagged: FlaggedShare, percentiles: PercentileTest) -> bool:
    """Whether chance does not explain the images: by the share flagged or by the percentiles."""
    return min(flagged.p, percentiles.p) < ALARM / 2


def drift_sentence(flagged: FlaggedShare, percentiles: PercentileTest) -> str:
    """The share flagged, what was expected, and whether the images are like the calibration photos."""
    if not drifted(flagged, percentiles):
        verdict = "the images are like the calibration photos"
    elif flagged.word == "more than expected":
        verdict = "the images are not like the calibration photos"
    else:
        verdict = "the images' scores are not spread as those of the calibration photos"
    return f"{flagged_sentence(flagged)}: {verdict}"


def flagged_sentence(found: FlaggedShare) -> str:
    """`62.0 % flagged (59.0 to 65.0), 5.0 % expected (2.9 to 7.8 for 1,000 images)`."""
    return (
        f"{100 * found.share:.1f} % flagged ({100 * found.low:.1f} to {100 * found.high:.1f}), "
        f"{100 * found.expected:.1f} % expected ({100 * found.expected_low:.1f} to {100 * found.expected_high:.1f} "
        f"for {found.images:,} images)"
    )


def accuracy_sentence(found: EstimatedAccuracy) -> str:
    """The accuracy that the probabilities promise, beside that of the calibration photos."""
    return (
        f"about {100 * found.accuracy:.1f} % of the labels of those that pass are right ({100 * found.low:.1f} to "
        f"{100 * found.high:.1f}, estimated without labels); of the calibration photos {100 * found.reference:.1f} %"
    )

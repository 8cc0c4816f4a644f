"""Two guards on the same images: how a share changes, with near-duplicates counted as they are: alike."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.stats import norm

from oodguard.training.metrics import Share, share

SIGNIFICANT = 0.05

Hits = npt.NDArray[np.bool_]
Groups = npt.NDArray[np.int64]


class PairedChange(BaseModel):
    """What a share is after, less what it was before, on the same images.

    low, high: 95 % interval. p: the chance of so large a change, either way, where neither guard is better. gained,
    lost: images that have the property only after, or only before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    change: float
    low: float
    high: float
    p: float
    gained: int
    lost: int

    @property
    def significant(self) -> bool:
        """Whether chance is a poor explanation."""
        return self.p < SIGNIFICANT


class PairedShare(BaseModel):
    """A share of images by the old and by the new guard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: Share
    after: Share
    change: PairedChange

    @classmethod
    def of(cls, before: Hits, after: Hits, groups: Groups) -> Self:
        """From what holds of each of N images, `[N]`, and its group of near-duplicates, `[N]`."""
        return cls(before=share(before), after=share(after), change=paired_change(before, after, groups))


def paired_change(before: Hits, after: Hits, groups: Groups) -> PairedChange:
    """The change of a share on the same N images, `[N]` each; groups: near-duplicates, whose answers change together.

    The interval is Bonett and Price's for paired shares (2012), with the variance between groups: Wald's after one
    image is added to each kind of change, so that no change at all has an interval, too. Without near-duplicates it is
    theirs. The test is exact: under the hypothesis each group's net change has either sign with the same chance;
    without near-duplicates that is McNemar's.
    """
    difference = after.astype(np.int64) - before.astype(np.int64)
    _, place = np.unique(groups, return_inverse=True)
    nets = np.bincount(place, weights=difference).astype(np.int64)
    sizes = np.bincount(place)
    added = np.append(nets, [1, -1]), np.append(sizes, [1, 1])
    total = added[1].sum()
    centre = added[0].sum() / total
    spread = float(norm.ppf(0.975) * np.sqrt(((added[0] - added[1] * centre) ** 2).sum()) / total)
    return PairedChange(
        change=float(difference.mean()),
        low=max(float(centre) - spread, -1.0),
        high=min(float(centre) + spread, 1.0),
        p=sign_flip_p(nets),
        gained=int((difference > 0).sum()),
        lost=int((difference < 0).sum()),
    )


def sign_flip_p(nets: npt.NDArray[np.int64]) -> float:
    """`P(|sum of +-n| >= |sum n|)` over independent fair signs of the net changes n, exactly."""
    moved = np.abs(nets[nets != 0])
    total = int(moved.sum())
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for net in moved.tolist():
        up, down = np.zeros_like(chances), np.zeros_like(chances)
        up[net:], down[:-net] = chances[:-net], chances[net:]
        chances = (up + down) / 2.0
    sums = np.arange(-total, total + 1)
    return float(min(1.0, chances[np.abs(sums) >= abs(int(nets.sum()))].sum()))

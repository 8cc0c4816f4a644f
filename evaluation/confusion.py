"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from oodguard.training.metrics import Share, share

Counts = npt.NDArray[np.int64]


class Confusion(BaseModel):
    """`images` of the `of` test images of class `true` are labelled `predicted`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    true: str
    predicted: str
    images: int
    of: int


def confusion_counts(targets: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int) -> Counts:
    """`[C, C]`: images by true class (row) and label given (column)."""
    return np.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def confusions(counts: Counts, classes: Sequence[str], most: int = 50) -> tuple[Confusion, ...]:
    """The `most` frequent wrong labels, by number of images, then by name."""
    found = [
        Confusion(true=classes[t], predicted=classes[p], images=int(counts[t, p]), of=int(counts[t].sum()))
        for t, p in zip(*np.nonzero(counts), strict=True)
        if t != p
    ]
    return tuple(sorted(found, key=lambda c: (-c.images, c.true, c.predicted))[:most])


def recalls(counts: Counts, classes: Sequence[str]) -> dict[str, Share]:
    """The share of each class's test images that is labelled rightly; classes without test images are left out."""
    totals = counts.sum(1)
    return {name: share(np.arange(totals[c]) < counts[c, c]) for c, name in enumerate(classes) if totals[c]}


def confusion_order(counts: Counts) -> list[int]:
    """Classes in an order that puts those confused with each other side by side.

    Average linkage with optimal leaf order over the distance `1 - (share of i labelled j + share of j labelled i) / 2`.
    """
    if len(counts) < 3:
        return list(range(len(counts)))
    rates = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    distance = 1.0 - (rates + rates.T) / 2
    np.fill_diagonal(distance, 0.0)
    flat = squareform(distance, checks=False)
    return [int(c) for c in leaves_list(optimal_leaf_ordering(linkage(flat, "average"), flat))]

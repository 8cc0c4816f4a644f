"""Splitting without leaks: near-duplicates stay on one side.

Several photos of one item land on both sides of a random split; the held-out half then looks closer to the training
photos, and thresholds set on it reject real ID images. Here the photos of each class are clustered by complete
linkage on the cosine similarity of frozen features, cut at the similarity that a tenth of all photos do not reach
with *any* photo of another class: closer than that, two photos of one class may be of one item or one session. Any two
photos of a cluster are that close, so similar things do not chain into one (by average or single linkage, 130 different
garments did). Clusters are kept whole when a set is split off. No cluster may hold more than a third of its class, so
that every class stays on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import ClusterNode, linkage, to_tree
from scipy.spatial.distance import squareform
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

CROSS_CLASS_QUANTILE = 0.1
MAX_SHARE = 1 / 3
MAX_CLUSTERED = 4000

Indices = npt.NDArray[np.int64]


def near_duplicate_groups(features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Indices:
    """A group number for each image, `[N]`, from features `[N, D]` and labels `[N]`; groups never cross classes."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    limit = _cross_class_similarity(unit, labels)
    groups = np.zeros(len(labels), dtype=np.int64)
    count = 0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        for part in np.array_split(members, -(-len(members) // MAX_CLUSTERED)):
            for cluster in _clusters(unit[part], limit):
                groups[part[cluster]] = count
                count += 1
    return groups


def _cross_class_similarity(unit: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    nearest = np.empty(len(unit), dtype=np.float32)
    for start in range(0, len(unit), 512):
        rows = slice(start, start + 512)
        similarity = unit[rows] @ unit.T
        similarity[labels[rows, None] == labels[None, :]] = -1.0
        nearest[rows] = similarity.max(1)
    return float(np.quantile(nearest, CROSS_CLASS_QUANTILE))


def _clusters(unit: npt.NDArray[np.float32], limit: float) -> list[list[int]]:
    if len(unit) == 1:
        return [[0]]
    distance = np.clip(1.0 - unit @ unit.T, 0.0, 2.0)
    np.fill_diagonal(distance, 0.0)
    tree = to_tree(linkage(squareform(distance, checks=False), "complete"))
    assert isinstance(tree, ClusterNode)
    largest = max(1.0, MAX_SHARE * len(unit))
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if not node.is_leaf() and (node.dist > 1.0 - limit or node.count > largest):
            waiting += [node.get_left(), node.get_right()]
        else:
            found.append(node.pre_order())
    return found


def split_off(
    labels: npt.NDArray[np.int64], groups: Sequence[int] | Indices | None, *, fraction: float, seed: int
) -> tuple[Indices, Indices]:
    """Indices `(rest, held_out)`: about `fraction` of the images, stratified by class, groups whole (None: no groups).

    Every class keeps at least one image on each side.
    """
    folds = max(2, round(1.0 / fraction))
    rows = np.arange(len(labels))
    if groups is None:
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        rest, held = next(splitter.split(rows, labels))
    else:
        grouped = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        rest, held = next(grouped.split(rows, labels, groups))
    missing = np.setdiff1d(labels, labels[rest])
    if len(missing):
        back = held[np.isin(labels[held], missing)]
        # A class that went over whole: its larger half returns to the training side.
        keep = np.concatenate(
            [back[labels[back] == label][: -(-int((labels[back] == label).sum()) // 2)] for label in missing]
        )
        rest, held = np.union1d(rest, keep), np.setdiff1d(held, keep)
    return np.sort(rest), np.sort(held)

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

import warnings
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


def parts_of(
    labels: npt.NDArray[np.int64], groups: Sequence[int] | Indices | None, *, count: int, seed: int
) -> list[Indices]:
    """The images divided into at most `count` parts, as rows; stratified by class, groups whole (None: no groups).

    Where no class has so many images, parts are of one size instead. No part has all images of a class that has two
    groups.
    """
    rows = np.arange(len(labels))
    own = rows if groups is None else np.asarray(groups)
    count = min(count, len(np.unique(own)))
    stratified = int(np.bincount(labels).max()) >= count
    kind = StratifiedKFold if groups is None and stratified else StratifiedGroupKFold
    splitter = kind(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Classes smaller than the number of parts are in some of them.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        grouped = {} if kind is StratifiedKFold else {"groups": own}
        found = [held for _, held in splitter.split(rows, labels if stratified else np.zeros_like(labels), **grouped)]
    part = np.zeros(len(labels), dtype=np.int64)
    for number, held in enumerate(found):
        part[held] = number
    for label in np.unique(labels):
        members = labels == label
        if len(np.unique(part[members])) == 1 and len(names := np.unique(own[members])) > 1:
            moved = members & np.isin(own, names[: len(names) // 2])
            part[moved] = (part[moved] + 1) % count
    return [held for number in range(count) if len(held := np.flatnonzero(part == number))]


def split_off(
    labels: npt.NDArray[np.int64],
    groups: Sequence[int] | Indices | None,
    *,
    fraction: float,
    seed: int,
    least: int = 0,
    left: int = 0,
) -> tuple[Indices, Indices]:
    """Indices `(rest, held_out)`: about `fraction` of the images, stratified by class, groups whole (None: no groups).

    Every class keeps at least one image in the rest. least, left: how many images are wanted in `held_out` and in
    `rest`. Of n images in k parts, one part has n / k at least and one n / k at most, so that either can be had.
    """
    pairs = [
        _without_whole_classes(labels, held) for held in parts_of(labels, groups, count=parts_for(fraction), seed=seed)
    ]
    fits = (pair for pair in pairs if len(pair[0]) >= left and len(pair[1]) >= least)
    return next(fits, max(pairs, key=lambda pair: min(len(pair[0]) - left, len(pair[1]) - least)))


def parts_for(fraction: float) -> int:
    """Into how many parts images are divided, so that one of them is about a `fraction`."""
    return max(2, round(1.0 / fraction))


def _without_whole_classes(labels: npt.NDArray[np.int64], held: Indices) -> tuple[Indices, Indices]:
    rest = np.setdiff1d(np.arange(len(labels)), held)
    missing = np.setdiff1d(labels, labels[rest])
    if len(missing):
        back = held[np.isin(labels[held], missing)]
        # A class that went over whole: its larger half returns to the training side.
        keep = np.concatenate(
            [back[labels[back] == label][: -(-int((labels[back] == label).sum()) // 2)] for label in missing]
        )
        rest, held = np.union1d(rest, keep), np.setdiff1d(held, keep)
    return rest, held

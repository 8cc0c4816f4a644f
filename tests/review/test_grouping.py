from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from oodguard.review import grouping
from oodguard.review.grouping import groups_of


def scattered(kinds: int, each: int, spread: float, seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit vectors around `kinds` directions, one kind after the other."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(np.eye(24)[:kinds], each, axis=0)
    found = (centres + spread * rng.normal(size=centres.shape)).astype(np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


@pytest.mark.parametrize("limit", [0.05, 0.2, 0.45, 0.7, 0.95, 1.2])
def test_groups_are_those_of_average_linkage(limit: float) -> None:
    vectors = scattered(kinds=6, each=20, spread=0.2)
    apart = 1.0 - vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(apart, 0.0)
    numbers = fcluster(linkage(squareform(apart, checks=False), "average"), limit, "distance")
    wanted = {frozenset(np.flatnonzero(numbers == number).tolist()) for number in set(numbers)}
    assert {frozenset(group) for group in groups_of(vectors, limit=limit)} == wanted


def test_the_largest_group_comes_first_and_its_most_typical_row_leads() -> None:
    vectors = np.concatenate([scattered(kinds=2, each=5, spread=0.1), scattered(kinds=1, each=4, spread=0.1, seed=1)])
    found = groups_of(vectors, limit=0.5)
    assert [sorted(group) for group in found] == [[0, 1, 2, 3, 4, 10, 11, 12, 13], [5, 6, 7, 8, 9]]
    group = vectors[found[0]]
    assert (group @ group.mean(axis=0)).argmax() == 0


def test_rows_beyond_the_most_join_the_nearest_group_or_begin_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "MOST", 20)
    vectors = np.concatenate([scattered(kinds=2, each=10, spread=0.1), scattered(kinds=3, each=4, spread=0.1, seed=1)])
    found = groups_of(vectors, limit=0.4)
    assert [sorted(group) for group in found] == [
        [*range(10), 20, 21, 22, 23],
        [*range(10, 20), 24, 25, 26, 27],
        [28, 29, 30, 31],
    ]


def test_no_rows_and_equal_rows() -> None:
    assert groups_of(np.zeros((0, 4), dtype=np.float32), limit=0.5) == []
    assert groups_of(np.tile(np.array([[1, 0]], dtype=np.float32), (7, 1)), limit=0.0) == [[0, 1, 2, 3, 4, 5, 6]]

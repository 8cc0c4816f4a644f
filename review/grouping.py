"""Groups of vectors that are alike: average linkage, cut at a limit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

# The pairwise distances of so many vectors take 150 MB; further ones join the groups of these.
MOST = 6000


def groups_of(vectors: Vectors, *, limit: float) -> list[list[int]]:
    """Rows of unit vectors `[N, D]`, grouped: the largest group first, and in each the most central row first.

    Two groups are joined while the mean of `1 - cosine` over the pairs between them is at most `limit`, the closest
    ones first (average linkage, by nearest-neighbour chains, in O(N^2) steps). After `MOST` rows, each further one
    joins the group with the smallest mean within the limit, or begins another.
    """
    found = _linked(vectors[:MOST], limit)
    sums = [vectors[rows].sum(axis=0) for rows in found]
    for row in range(MOST, len(vectors)):
        # The mean of `1 - cosine` to the rows of a group is 1 - the product with their mean.
        near = np.array([1.0 - vectors[row] @ total / len(rows) for total, rows in zip(sums, found, strict=True)])
        best = int(near.argmin())
        if near[best] <= limit:
            found[best].append(row)
            sums[best] = sums[best] + vectors[row]
        else:
            found.append([row])
            sums.append(vectors[row].copy())
    centred = [_central_first(vectors, rows) for rows in found]
    return sorted(centred, key=lambda rows: (-len(rows), min(rows)))


def _central_first(vectors: Vectors, rows: list[int]) -> list[int]:
    mean = vectors[rows].mean(axis=0)
    near = vectors[rows] @ mean
    return [rows[place] for place in np.argsort(-near, kind="stable")]


def _linked(vectors: Vectors, limit: float) -> list[list[int]]:
    count = len(vectors)
    if not count:
        return []
    apart = 1.0 - vectors @ vectors.T
    np.fill_diagonal(apart, np.inf)
    size = np.ones(count, dtype=np.float32)
    members: dict[int, list[int]] = {row: [row] for row in range(count)}
    # A group whose nearest one is beyond the limit is finished: average linkage never brings another one nearer.
    waiting = dict.fromkeys(range(count))
    chain: list[int] = []
    while waiting:
        if not chain:
            chain.append(next(iter(waiting)))
        at = chain[-1]
        near = int(apart[at].argmin())
        if len(chain) > 1 and apart[at, chain[-2]] <= apart[at, near]:
            near = chain[-2]
        if apart[at, near] > limit:
            del waiting[at]
            chain.pop()
        elif len(chain) > 1 and near == chain[-2]:
            del chain[-2:]
            _join(apart, size, near, at)
            members[near] += members.pop(at)
            del waiting[at]
        else:
            chain.append(near)
    return list(members.values())


def _join(apart: Vectors, size: npt.NDArray[np.float32], kept: int, gone: int) -> None:
    """Lance and Williams' update of the distances for average linkage."""
    weight = size[kept] / (size[kept] + size[gone])
    joined = weight * apart[kept] + (1.0 - weight) * apart[gone]
    joined[[kept, gone]] = np.inf
    apart[kept] = joined
    apart[:, kept] = joined
    apart[gone] = np.inf
    apart[:, gone] = np.inf
    size[kept] += size[gone]

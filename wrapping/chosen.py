"""Which photos a trial looks at."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence


def sample(targets: Sequence[int], *, most: int, seed: int = 0) -> list[int]:
    """Places of at most `most` targets that are known (0 or more), as many of each class as there are, in turn."""
    rng = random.Random(seed)
    of: dict[int, list[int]] = defaultdict(list)
    for place, target in enumerate(targets):
        if target >= 0:
            of[target].append(place)
    for places in of.values():
        rng.shuffle(places)
    order = sorted(of)
    rng.shuffle(order)
    turns: Iterable[int] = (
        of[target][turn]
        for turn in range(max(map(len, of.values()), default=0))
        for target in order
        if turn < len(of[target])
    )
    return [place for place, _ in zip(turns, range(most), strict=False)]

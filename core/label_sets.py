"""Label sets: the classes that hold the true one with a promised chance. NumPy only.

Split conformal prediction: a nonconformity s(x, c) of each class, and the cut below which the true class of enough
calibration images lies. Both kinds walk down the classes in the order of their chances.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum

import numpy as np
import numpy.typing as npt

RAPS_FREE_CLASSES = 2
RAPS_PENALTY = 0.1

Values = npt.NDArray[np.float64]


class Nonconformity(StrEnum):
    """How ill a class fits an image, from the chances of all classes.

    LAC (Sadinle et al. 2019): `1 - q_c`; the smallest sets on average. RAPS (Angelopoulos et al. 2021, without
    randomisation): `sum of q_k over the classes k at least as likely + penalty * max(0, rank_c - free)`; sets whose
    size follows the difficulty of the image.
    """

    LAC = "lac"
    RAPS = "raps"

    def along(self, chances: Iterable[float]) -> Iterator[float]:
        """The nonconformity of each class, most likely first, from chances in that order; it never falls."""
        total = 0.0
        for rank, chance in enumerate(chances, start=1):
            total += chance
            if self is Nonconformity.LAC:
                yield 1.0 - chance
            else:
                yield total + RAPS_PENALTY * max(0, rank - RAPS_FREE_CLASSES)

    def table(self, chances: Values) -> Values:
        """The nonconformity `[B, C]` of every class, from chances `[B, C]`."""
        if self is Nonconformity.LAC:
            return 1.0 - chances
        order = np.argsort(-chances, axis=1, kind="stable")
        ranks = np.argsort(order, axis=1, kind="stable")
        totals = np.take_along_axis(np.cumsum(np.take_along_axis(chances, order, axis=1), axis=1), ranks, axis=1)
        return np.asarray(totals + RAPS_PENALTY * np.maximum(0, ranks + 1 - RAPS_FREE_CLASSES))

    def size(self, chances: Iterable[float], cut: float) -> int:
        """How many classes the label set holds: those at or below `cut`, and the most likely one always."""
        count = 0
        for value in self.along(chances):
            if value > cut:
                break
            count += 1
        return max(1, count)

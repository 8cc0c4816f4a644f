"""What a random calibration split would have hidden: near-duplicates of training photos make a threshold too tight."""

from __future__ import annotations

import numpy as np

from oodguard.core.calibration import MIN_CALIBRATION
from oodguard.core.curve import QuantileCurve
from oodguard.core.targets import DEFAULT_ACCEPT
from oodguard.evaluation.baselines import neighbour_distance
from oodguard.evaluation.frozen import FrozenFeatures
from oodguard.training.photos.split import Indices, split_off

NEIGHBOURS = (1, 5)


def leak(frozen: FrozenFeatures) -> dict[str, dict[int, float]]:
    """What keeping near-duplicates together changes: test acceptance of a kNN threshold set for 95 %.

    `{split: {k: acceptance}}`, with a random and with the grouped calibration split. Empty for a cross-fitted run,
    which has no calibration split, and where a split has fewer than `MIN_CALIBRATION` photos.
    """
    training, held = frozen.training, frozen.calibration
    if held is None:
        return {}
    pool = np.concatenate([training.features, held.features])
    size, options = len(training.labels), frozen.options
    labels = np.concatenate([training.labels, held.labels])
    splits: dict[str, tuple[Indices, Indices]] = {
        "random": split_off(labels, None, fraction=options.calibration_fraction, seed=options.seed),
        "grouped": (np.arange(size), np.arange(size, len(pool))),
    }
    if min(len(calibration) for _, calibration in splits.values()) < MIN_CALIBRATION:
        return {}
    found: dict[str, dict[int, float]] = {}
    for name, (bank, calibration) in splits.items():
        found[name] = {}
        for k in NEIGHBOURS:
            distances = neighbour_distance(pool[calibration], pool[bank], k)
            threshold = QuantileCurve.fit(distances).threshold(DEFAULT_ACCEPT)
            found[name][k] = float(np.mean(neighbour_distance(frozen.test, pool[bank], k) <= threshold))
    return found

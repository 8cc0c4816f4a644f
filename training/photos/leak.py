"""What a random calibration split would have hidden: near-duplicates of training photos make a threshold too tight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from oodguard.core.calibration import DEFAULT_ACCEPT
from oodguard.core.curve import QuantileCurve, Scores
from oodguard.training.backbone.features import Extractor
from oodguard.training.backbone.network import Backbone
from oodguard.training.backbone.sources import load_backbone
from oodguard.training.backbone.tail import tail_features
from oodguard.training.options import TrainOptions
from oodguard.training.photos.division import Division, label_numbers
from oodguard.training.photos.split import Indices, split_off


def leak_metrics(
    backbone: Backbone,
    extractor: Extractor,
    division: Division,
    options: TrainOptions,
    frozen: npt.NDArray[np.float32],
    classes: Sequence[str],
) -> dict[str, float]:
    """What keeping near-duplicates together changes: test acceptance of a kNN threshold set for 95 %.

    Measured on frozen features with k = 1 and 5, once with a random and once with the grouped calibration split.
    """
    original = load_backbone(
        options.backbone, weights=options.weights, image_size=options.image_size, tune=options.tune
    )
    if original.weights_sha256 != backbone.weights_sha256:
        return {}  # random weights: there is no frozen network to go back to
    test = _unit(tail_features(original.tail, extractor.extract(division.test)[0]).numpy())
    pool = _unit(frozen)
    labels = label_numbers((*division.training, *division.calibration), classes)
    size = len(division.training)
    splits: dict[str, tuple[Indices, Indices]] = {
        "random": split_off(labels, None, fraction=options.calibration_fraction, seed=options.seed),
        "grouped": (np.arange(size), np.arange(size, len(pool))),
    }
    found = {}
    for name, (bank, held) in splits.items():
        for k in (1, 5):
            threshold = QuantileCurve.fit(_kth_distance(pool[held], pool[bank], k)).threshold(DEFAULT_ACCEPT)
            found[f"knn{k}_acceptance_{name}_split"] = float(np.mean(_kth_distance(test, pool[bank], k) <= threshold))
    return found


def _unit(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))


def _kth_distance(queries: npt.NDArray[np.float32], bank: npt.NDArray[np.float32], k: int) -> Scores:
    similarity = queries @ bank.T
    return np.asarray(1.0 - np.sort(similarity, axis=1)[:, -min(k, len(bank))], dtype=np.float64)

from __future__ import annotations

from pathlib import Path

import numpy as np

from oodguard.evaluation.frozen import FrozenFeatures, LabelledFeatures
from oodguard.evaluation.leak import leak
from oodguard.training.options import TrainOptions


def frozen(count: int) -> FrozenFeatures:
    """`count` photos of 2 classes to train and 24 to calibrate, at random."""
    rng = np.random.default_rng(0)

    def some(number: int) -> LabelledFeatures:
        features = rng.standard_normal((number, 8)).astype(np.float32)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        return LabelledFeatures(features, np.arange(number) % 2, np.arange(number))

    return FrozenFeatures(
        options=TrainOptions(data=Path("photos")),
        training=some(count),
        calibration=some(24),
        test=some(30).features,
        targets=np.arange(30) % 2,
        ood={},
    )


def test_a_random_split_that_is_too_small_for_a_threshold_is_not_compared() -> None:
    """Of 120 photos a random split calibrates with 18, which hold no threshold for 95 %."""
    assert leak(frozen(96)) == {}
    assert set(leak(frozen(200))) == {"random", "grouped"}

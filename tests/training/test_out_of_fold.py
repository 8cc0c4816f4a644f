from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from oodguard.training.options import TrainOptions
from oodguard.training.out_of_fold import FrozenPhotos, out_of_fold

OPTIONS = TrainOptions(data=Path(), epochs=20, lr=0.01, hidden=16, members=2, anchors=2, batch_size=32, bank_size=200)


def frozen(count: int = 180, *, seed: int = 0, held: int = 60) -> FrozenPhotos:
    """Three classes around centres of their own, photos in pairs that are near-duplicates."""
    rng = np.random.default_rng(seed)
    centres = 3.0 * rng.normal(size=(3, 12))

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        targets = np.arange(n) // 2 % 3
        return (centres[targets] + rng.normal(size=(n, 12))).astype(np.float32), targets

    features, targets = drawn(count)
    views = np.stack([features, features + 0.1 * rng.normal(size=features.shape).astype(np.float32)])
    return FrozenPhotos(
        features=torch.from_numpy(views),
        targets=torch.from_numpy(targets),
        groups=np.arange(count) // 2,
        held=torch.from_numpy(drawn(held)[0]),
    )


def test_every_training_photo_is_scored_by_heads_that_did_not_see_it() -> None:
    photos = frozen()
    steps: list[tuple[int, int]] = []
    found = out_of_fold(photos, OPTIONS, classes=3, check=None, progress=lambda *step: steps.append(step))
    assert found is not None
    assert len(found) == 180
    np.testing.assert_array_equal(found.targets, photos.targets.numpy())
    np.testing.assert_array_equal(found.groups, photos.groups)
    assert np.mean(found.predicted == found.targets) > 0.9
    # On the scale of the held-out photos: exponential with mean 1, up to chance.
    assert 0.6 < found.surprise.mean() < 1.6
    assert steps == [(k, 4) for k in (1, 2, 3, 4)]


def test_a_photo_that_is_unlike_its_class_surprises() -> None:
    photos = frozen()
    strange = photos.features.clone()
    strange[:, :2] += 60.0
    found = out_of_fold(
        FrozenPhotos(features=strange, targets=photos.targets, groups=photos.groups, held=photos.held),
        OPTIONS,
        classes=3,
        check=None,
    )
    assert found is not None
    assert found.surprise[:2].min() > np.quantile(found.surprise[2:], 0.95)


def test_the_same_seed_gives_the_same_answers() -> None:
    first, again = (out_of_fold(frozen(), OPTIONS, classes=3, check=None) for _ in range(2))
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first.surprise, again.surprise)
    np.testing.assert_array_equal(first.probabilities, again.probabilities)


def test_where_no_part_can_be_left_out_there_is_none() -> None:
    assert out_of_fold(frozen(), OPTIONS.model_copy(update={"out_of_fold": 0}), classes=3, check=None) is None
    # One group a class: without it the class is gone.
    assert out_of_fold(frozen(6), OPTIONS, classes=3, check=None) is None

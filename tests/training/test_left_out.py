from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from oodguard.core.fusion import chosen_share
from oodguard.core.scores import SCORES, ScoreName
from oodguard.training.left_out import SHARES, Labelled, check_left_out
from oodguard.training.options import TrainOptions

CLASSES, WIDTH = 6, 24


@pytest.fixture
def options() -> TrainOptions:
    return TrainOptions(data=Path("photos"), epochs=24, lr=0.005, hidden=16)


def photos(seed: int, each: int, *, views: int = 1, apart: float = 4.0) -> Labelled:
    """Classes in directions of their own."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(CLASSES * each) % CLASSES
    noise = torch.randn(views, len(targets), WIDTH, generator=generator)
    return Labelled(noise + apart * torch.eye(CLASSES, WIDTH)[targets], targets)


def test_classes_that_lie_apart_are_told_when_left_out(options: TrainOptions) -> None:
    found = check_left_out(photos(0, 30, views=2), photos(1, 15), options, classes=CLASSES)
    assert found is not None
    assert found.folds == 3
    # Each class is left out once: its 30 training photos and its 15 held-out ones.
    assert found.images == CLASSES * (30 + 15)
    assert set(found.auroc) == set(found.let_in) == {spec.name for spec in SCORES}
    assert found.auroc[ScoreName.KNN] > 90
    assert found.let_in[ScoreName.KNN] < 50
    assert tuple(found.shares) == SHARES
    assert chosen_share(found) in SHARES


def test_classes_that_do_not_differ_are_told_by_nothing(options: TrainOptions) -> None:
    found = check_left_out(photos(0, 30, apart=0.0), photos(1, 15, apart=0.0), options, classes=CLASSES)
    assert found is not None
    assert all(abs(value - 50) < 12 for value in found.auroc.values())
    assert all(value > 80 for value in found.let_in.values())


def test_the_same_seed_gives_the_same_check(options: TrainOptions) -> None:
    first, again = (check_left_out(photos(0, 20), photos(1, 15), options, classes=CLASSES) for _ in range(2))
    assert first == again
    other = options.model_copy(update={"seed": 1})
    assert check_left_out(photos(0, 20), photos(1, 15), other, classes=CLASSES) != first


def test_too_few_classes_or_photos_to_say(options: TrainOptions) -> None:
    def of(part: Labelled, classes: int) -> Labelled:
        return Labelled(*part.of(np.arange(classes)))

    training, held = photos(0, 20), photos(1, 15)
    assert check_left_out(of(training, 2), of(held, 2), options, classes=2) is None
    none = options.model_copy(update={"check_folds": 0})
    assert check_left_out(training, held, none, classes=CLASSES) is None
    few = photos(1, 4)  # 16 of the known classes in each fold, where 20 are needed
    assert check_left_out(training, few, options, classes=CLASSES) is None


def test_progress_counts_folds(options: TrainOptions) -> None:
    seen: list[tuple[int, int]] = []
    check_left_out(
        photos(0, 10), photos(1, 8), options, classes=CLASSES, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]

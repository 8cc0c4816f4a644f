from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodguard.core.calibration import MIN_CALIBRATION
from oodguard.core.errors import InputError
from oodguard.training.options import TrainOptions
from oodguard.training.photos.minimum import Minimum, require_enough
from oodguard.training.photos.split import parts_of, split_off


def options(**given: Any) -> TrainOptions:
    return TrainOptions(data=Path("photos"), **given)


@pytest.mark.parametrize(
    ("given", "tested", "held", "photos"),
    [
        ({}, True, False, 134),
        ({}, False, False, 167),
        ({"calibration_fraction": 0.5}, True, False, 39),
        ({"calibration_fraction": 0.5}, False, False, 48),
        ({"calibration_fraction": 0.33, "test_fraction": 0.5}, False, False, 115),
        ({"cross_fit": 5}, True, False, 20),
        ({"cross_fit": 20}, False, False, 20),
        ({}, True, True, 20),
        ({}, False, True, 24),
        ({"test_fraction": 0.5}, False, True, 39),
    ],
)
def test_the_fewest_photos_are_exact(given: dict[str, Any], tested: bool, held: bool, photos: int) -> None:
    minimum = Minimum(options(**given), tested=tested, held=held)
    assert minimum.photos == photos
    minimum.require(photos)
    with pytest.raises(InputError, match=f"{photos - 1} photos"):
        minimum.require(photos - 1)


def test_the_sentence_names_what_works() -> None:
    def sentence(there: int, minimum: Minimum, *, wrapped: bool = False) -> str:
        with pytest.raises(InputError) as raised:
            minimum.require(there, wrapped=wrapped)
        return str(raised.value)

    assert sentence(8, Minimum(options(), tested=False)) == (
        "8 photos are too few: --calibration-fraction 0.15 of them, after --test-fraction 0.2, must be 20 to calibrate "
        "thresholds, which takes 167 photos; add 159, or add 12 and give --cross-fit 5"
    )
    assert sentence(120, Minimum(options(), tested=True)).endswith(
        "add 14, or give --calibration-fraction 0.16, or give --cross-fit 5, which calibrates on all of them"
    )
    assert sentence(60, Minimum(options(), tested=True), wrapped=True).endswith(
        "add 74, or give --calibration-fraction 0.33"
    )
    assert sentence(19, Minimum(options(cross_fit=5), tested=True)) == (
        "19 photos are too few to calibrate thresholds, and 20 are needed; add 1"
    )
    assert sentence(23, Minimum(options(), tested=False, held=True)).endswith("add 1 to val/ or --unseen")


@pytest.mark.parametrize("tested", [True, False])
@pytest.mark.parametrize("kind", ["two classes", "many classes", "one small class", "groups"])
def test_so_many_photos_can_be_divided_whatever_they_show(kind: str, tested: bool) -> None:
    """The promise of `Minimum.photos`, on every kind of set and over seeds; one photo less may fall short."""
    given = options()
    minimum = Minimum(given, tested=tested)
    count = minimum.photos
    for seed in range(10):
        labels, groups = _set(kind, count, seed)
        learn = np.arange(count)
        if not tested:
            learn, test = split_off(labels, groups, fraction=given.test_fraction, seed=seed, left=minimum.left)
            assert len(test) > 0
            assert not set(groups[learn]) & set(groups[test])
        rest, held = split_off(
            labels[learn], groups[learn], fraction=given.calibration_fraction, seed=seed, least=MIN_CALIBRATION
        )
        assert len(held) >= MIN_CALIBRATION
        assert set(labels[learn][rest]) == set(labels)


def _set(kind: str, count: int, seed: int) -> tuple[Any, Any]:
    if kind == "many classes":
        labels = np.arange(count) % (count // 4)
    elif kind == "one small class":
        labels = (np.arange(count) >= 4).astype(np.int64)
    else:
        labels = np.arange(count) % 2
    groups = np.arange(count)
    if kind == "groups":
        # As near-duplicates are grouped: at most a third of a class in one.
        groups = labels + 2 * np.random.default_rng(seed).integers(0, 12, count)
    return labels, groups


@pytest.mark.parametrize("parts", [2, 5, 20])
def test_parts_cover_everything_and_leave_each_class_somewhere_else(parts: int) -> None:
    for seed in range(20):
        labels = np.repeat(np.arange(5), 4)
        groups = np.arange(20) - np.arange(20) % 4 % 2  # in pairs or alone
        found = parts_of(labels, groups, count=parts, seed=seed)
        assert sorted(np.concatenate(found)) == list(range(20))
        for held in found:
            rest = np.setdiff1d(np.arange(20), held)
            assert set(labels[rest]) == set(range(5))
            assert not set(groups[rest]) & set(groups[held])


def test_every_class_needs_four() -> None:
    require_enough(Counter(a=4, b=4))
    with pytest.raises(InputError, match=r"too few images in a \(3\); every class needs at least 4"):
        require_enough(Counter(a=3, b=4))

"""Training at the fewest photos that it says it needs, and with one photo less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oodguard.core.errors import InputError
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from tests.conftest import draw

TINY: dict[str, Any] = {
    **{"image_size": 32, "views": 1, "fine_tune": False, "epochs": 2, "hidden": 8, "members": 2, "active": 2},
    **{"anchors": 2, "threads": 1},
}


def make(root: Path, classes: int, photos: int) -> Path:
    """So many photos, dealt out to the classes."""
    for number in range(photos):
        label = number % classes
        folder = root / f"class{label:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        colour = (40 + 200 * label // classes, 230 - 180 * label // classes, 90)
        draw(colour, number, side=32).save(folder / f"{number:03d}.jpg", quality=90)
    return root


@pytest.mark.parametrize(
    ("given", "classes", "photos"),
    [
        # Four photos of each class, which are fewer than the parts.
        ({"cross_fit": 5}, 5, 20),
        ({"cross_fit": 2}, 2, 20),
        ({"calibration_fraction": 0.5}, 12, 48),
        ({"calibration_fraction": 0.5, "test_fraction": 0.1, "check_folds": 0, "out_of_fold": 0}, 2, 43),
    ],
)
def test_the_fewest_photos_train_and_one_less_is_refused_before_anything_is_computed(
    given: dict[str, Any], classes: int, photos: int, tmp_path: Path
) -> None:
    fewer = TrainOptions(data=make(tmp_path / "fewer", 2, photos - 1), cache=tmp_path / "none", **TINY, **given)
    with pytest.raises(InputError, match=f"{photos - 1} photos are too few"):
        train(fewer, tmp_path / "refused")
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "refused").exists()

    enough = TrainOptions(data=make(tmp_path / "enough", classes, photos), cache=tmp_path / "cache", **TINY, **given)
    splits = train(enough, tmp_path / "run").splits
    assert splits.calibration >= 20
    crossed = bool(given.get("cross_fit"))
    assert splits.train + splits.test + (0 if crossed else splits.calibration) == photos

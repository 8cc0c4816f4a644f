from __future__ import annotations

from pathlib import Path, PurePath

import pytest
from PIL import Image

from oodguard.core.photo_folders import (
    FolderRules,
    Part,
    class_above,
    is_like_split,
    same_class,
    split_of,
    training_folder,
    unwrapped,
)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *[(name, Part.TRAIN) for name in ("train", "Train", "TRAINING", "training_set", "trainset", "seg_train")],
        *[(name, Part.TRAIN) for name in ("Train_data", "TrainData", "train-images", "Training Data")],
        *[(name, Part.VAL) for name in ("val", "Valid", "validation", "Validation_Set", "dev", "valdata")],
        *[(name, Part.TEST) for name in ("test", "Testing", "test_set", "seg_test", "TestImages")],
    ],
)
def test_the_usual_names_of_splits_are_known_in_any_case(name: str, part: Part) -> None:
    assert split_of(name) is part
    assert is_like_split(name)


@pytest.mark.parametrize("name", ["train2", "test1", "seg_pred", "eval", "holdout", "train_val", "trainval"])
def test_names_that_may_be_any_split_are_none_but_are_noticed(name: str) -> None:
    assert split_of(name) is None
    assert is_like_split(name)


@pytest.mark.parametrize(
    "name", ["test tube", "trainers", "valve", "developer", "train_station", "set", "data", "images", "apple", "2"]
)
def test_other_names_are_classes(name: str) -> None:
    assert split_of(name) is None
    assert not is_like_split(name)


def test_classes_are_one_where_capital_letters_or_unicode_differ() -> None:
    assert same_class("Caf\u00e9 ") == same_class("cafe\u0301")
    assert same_class("Apple") == same_class("apple") != same_class("apples")


def test_a_class_may_be_several_folders_deep() -> None:
    classes = ("apple", "fruit/apple", "fruit/pear")
    assert class_above(PurePath("shop/fruit/apple/1.jpg"), classes) == "fruit/apple"
    assert class_above(PurePath("tree/apple/1.jpg"), classes) == "apple"
    assert class_above(PurePath("fruit/pear/1.jpg"), classes) == "fruit/pear"
    assert class_above(PurePath("pear/1.jpg"), classes) is None
    assert class_above(PurePath("apple/new/1.jpg"), classes) is None


def test_wrapping_folders_are_stepped_into_beside_files_but_not_into_splits(tmp_path: Path) -> None:
    for name in ("wrapped/data/Training/a/1.png", "wrapped/data/Training/b/1.png", "wrapped/__MACOSX/x/1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "README.md").write_text("read me")
    assert unwrapped(tmp_path) == tmp_path / "wrapped" / "data"
    assert training_folder(tmp_path / "wrapped" / "data") == tmp_path / "wrapped" / "data" / "Training"
    assert training_folder(tmp_path) == tmp_path
    assert unwrapped(tmp_path, FolderRules(splits=False)) == tmp_path / "wrapped" / "data" / "Training"

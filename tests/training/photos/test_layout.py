from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from oodguard.core.errors import InputError
from oodguard.core.photo_folders import FolderRules
from oodguard.training.photos.labelled import find_photos
from oodguard.training.photos.photo import Photos

Make = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes so many different photos into each of the folders."""

    def write(folders: Mapping[str, int]) -> Path:
        root = tmp_path / "photos"
        shade = 0
        for name, count in folders.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                shade += 1
                Image.new("RGB", (8, 8), (shade % 256, shade // 256, 0)).save(root / name / f"{number}.png")
        return root

    return write


def read(root: Path, **rules: object) -> Photos:
    return find_photos(root, root.parent / "cache", FolderRules(**rules))  # type: ignore[arg-type]


def counts(found: Photos) -> tuple[dict[str, int], dict[str, int]]:
    return dict(Counter(p.label for p in found.pool)), dict(Counter(p.label for p in found.test))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "Validation", "Testing"),
        ("train", "valid", "test"),
        ("TRAIN", "dev", "TESTING"),
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
        ("dataset/training_set/training_set", "dataset/validation_set", "dataset/test_set/test_set"),
    ],
)
def test_splits_are_known_by_their_usual_names(make: Make, train: str, val: str, test: str) -> None:
    root = make({f"{train}/a": 5, f"{train}/b": 6, f"{val}/a": 2, f"{val}/b": 1, f"{test}/a": 3, f"{test}/b": 4})
    found = read(root)
    assert counts(found) == ({"a": 7, "b": 7}, {"a": 3, "b": 4})
    names = [path.removeprefix("dataset/").split("/")[0] for path in (train, val, test)]
    assert found.passed == ()
    assert found.layout == f"{names[0]}/ trains, {names[1]}/ joins it, {names[2]}/ tests"


def test_every_class_may_hold_its_own_splits(make: Make) -> None:
    found = read(make({"a/train": 5, "a/Test": 2, "b/train": 4, "b/Test": 3, "b/val": 1}))
    assert counts(found) == ({"a": 5, "b": 5}, {"a": 2, "b": 3})
    assert "every class folder holds its own" in found.layout


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train/a": 5, "train/b": 5, "extra": 3}, r"extra \(3 photos\) .*beside train; .*--ignore-folder extra"),
        ({"Train/a": 5, "Train/b": 5, "more data/a": 2}, r"--ignore-folder 'more data'"),
        ({"train/a": 5, "train/b": 5, "test": 3}, r"test holds 3 photos in no class folders; .*--ignore-folder test"),
        ({"train": 5, "test": 5}, "test, train.* hold photos in no class folders; .*--no-splits if they are classes"),
        ({"train": 5, "bus": 5, "car": 5}, "train in .* holds photos in no class folders; .*--no-splits if it is a cl"),
        ({"train1": 5, "test1": 5}, r"train1.*test1|test1.*train1.* named like splits"),
        ({"eval": 5, "apple": 5}, r"eval in .* is named like splits"),
        ({"test/a": 5, "test/b": 5, "c": 5}, "named like splits|--classes-from"),
        ({"train/a": 5, "train/b": 5, "val/a": 1, "valid/a": 1}, "val and valid .* both named like the val split"),
        ({"Train/a": 5, "Train/b": 5, "train/a": 1}, "Train and train .* both named like the train split"),
        ({"fold1/a": 5, "fold1/b": 5, "fold2/a": 5, "fold2/b": 5}, r"all 2 folders .* hold the same folders \(a, b\)"),
        ({"train2/a": 5, "train2/b": 5, "test2/a": 5, "test2/b": 5}, "name splits train, val and test"),
        ({"fruit/apple": 5, "nut/hazel": 5, "nut/cashew": 5}, r"path \(fruit/apple\), leaf \(apple\) or top \(fruit\)"),
        ({"train/fruit/apple": 5, "train/vegetable/carrot": 5, "train/herb": 4}, r"path \(fruit/apple\)"),
        ({"fruit": 5, "fruit/apple": 5, "nut": 5}, r"fruit holds folders with photos \(apple\)"),
        ({"a": 5, "b": 5, "c": 0}, "c has no photos; add some, remove the folder, or give --ignore-folder c"),
        ({"train/a": 5, "train/b": 5, "test/a": 2, "test/b": 0}, "b has no photos"),
        ({"train/a": 5, "train/b": 5, "test/c": 2}, "test has classes that .*train lacks: c"),
        ({"train/a": 5, "train/b": 5, "test/A": 2}, "the classes a of .*train and A of .*test differ only in capital"),
        ({"caf\u00e9": 5, "cafe\u0301": 5}, "differ only in capital letters or in how their letters are coded"),
        ({"Apple": 5, "apple": 5}, "the classes Apple of .* and apple of .* differ only"),
        ({"a": 5}, "one class"),
    ],
)  # fmt: skip
def test_unclear_layouts_are_refused_with_what_to_do(make: Make, folders: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(make(folders))


@pytest.mark.parametrize(
    ("classes_from", "expected"),
    [
        ("path", {"fruit/apple": 5, "fruit/pear": 4, "herb": 3, "vegetable/apple": 2}),
        ("leaf", {"apple": 7, "pear": 4, "herb": 3}),
        ("top", {"fruit": 9, "herb": 3, "vegetable": 2}),
    ],
)
def test_nested_classes_by_option(make: Make, classes_from: str, expected: dict[str, int]) -> None:
    folders = {"fruit/apple": 5, "fruit/pear": 4, "vegetable/apple": 2, "herb": 3}
    assert counts(read(make(folders), classes_from=classes_from))[0] == expected
    shutil.rmtree(make({}))
    split = {f"Train/{name}": count for name, count in folders.items()} | {"Test/fruit/apple": 1, "Test/herb": 1}
    assert counts(read(make(split), classes_from=classes_from))[0] == expected


def test_photos_beside_nested_classes_are_refused(make: Make) -> None:
    root = make({"fruit": 1, "fruit/apple": 5, "nut": 5})
    for classes_from in ("path", "leaf"):
        with pytest.raises(InputError, match=r"fruit holds 1 photos beside folders with photos \(apple\); .*top"):
            read(root, classes_from=classes_from)
    assert counts(read(root, classes_from="top"))[0] == {"fruit": 6, "nut": 5}


def test_ignored_folders_are_named(make: Make) -> None:
    root = make({"train/a": 5, "train/b": 5, "extra": 2, "train/junk": 3, "test/a": 1, "test/junk": 1})
    found = read(root, ignored=("extra", "train/junk", "test/junk"))
    assert counts(found) == ({"a": 5, "b": 5}, {"a": 1})
    assert [file.name for file in found.passed] == [
        *(f"extra/{n}.png" for n in range(2)),
        "test/junk/0.png",
        *(f"train/junk/{n}.png" for n in range(3)),
    ]
    assert {file.reason for file in found.passed} == {"in a folder that --ignore-folder leaves out"}


def test_without_splits_their_names_are_classes(make: Make) -> None:
    assert counts(read(make({"train": 5, "bus": 4}), splits=False)) == ({"bus": 4, "train": 5}, {})


def test_linked_folders_add_to_a_class_that_has_photos_of_its_own(make: Make, tmp_path: Path) -> None:
    root = make({"a": 5, "b": 5})
    shutil.move(shutil.copytree(root / "b", tmp_path / "other"), tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").iterdir():
        Image.new("RGB", (9, 9)).save(path)
    (root / "a" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert counts(read(root))[0] == {"a": 10, "b": 5, "c": 5}
    (root / "d").mkdir()
    (root / "d" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(InputError, match="--classes-from"):
        read(root)


def test_what_systems_leave_is_no_folder_of_photos(make: Make) -> None:
    root = make({"train/a": 5, "train/b": 5, "@eaDir/a": 2, "train/a/@eaDir": 2, "__MACOSX/train/a": 1})
    (root / "train" / ".cache").mkdir()
    for name in ("train/a/Thumbs.db", "train/.DS_Store", "desktop.ini", "train/a/._0.png"):
        (root / name).write_bytes(b"x")
    found = read(root)
    assert counts(found)[0] == {"a": 5, "b": 5}
    assert found.passed == ()

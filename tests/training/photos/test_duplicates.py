from __future__ import annotations

from pathlib import Path

import pytest

from oodguard.core.errors import InputError
from oodguard.training.photos.duplicates import duplicate_lines, settle
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.record import Duplicates


def photo(name: str, sha256: str) -> Photo:
    path = Path("photos", name)
    return Photo(path=path, label=path.parent.name, sha256=sha256)


def messy() -> Photos:
    """One training photo and one of val/ are test photos, too; one photo is an apple and a pear, and in test/ again."""
    pool = tuple(photo(f"train/{label}/{n}.jpg", f"{label}{n}") for label in ("apple", "pear") for n in range(3))
    return Photos(
        pool=(*pool, photo("train/apple/both.jpg", "both"), photo("train/pear/both.jpg", "both")),
        held=(photo("val/pear/9.jpg", "pear9"),),
        test=(
            photo("test/apple/a.jpg", "apple1"),
            photo("test/pear/p.jpg", "pear9"),
            photo("test/pear/q.jpg", "both"),
            photo("test/pear/r.jpg", "new"),
        ),
        root=Path("photos"),
    )


def test_dropping_leaves_leaks_in_test_alone_and_no_photo_of_two_labels() -> None:
    found = settle(messy(), "drop")
    assert [one.sha256 for one in found.pool] == ["apple0", "apple2", "pear0", "pear1", "pear2"]
    assert found.held == ()
    assert [one.sha256 for one in found.test] == ["apple1", "pear9", "new"]
    assert found.duplicates == Duplicates(
        action="drop",
        leaked=2,
        contested=1,
        contested_files=3,
        first_leaked=(("train/apple/1.jpg", "test/apple/a.jpg"), ("val/pear/9.jpg", "test/pear/p.jpg")),
        first_contested=(
            (("test/pear/q.jpg", "pear"), ("train/apple/both.jpg", "apple"), ("train/pear/both.jpg", "pear")),
        ),
    )
    assert duplicate_lines(found.duplicates) == (
        "leaks: 2 photos to learn from are among the test photos, too (train/apple/1.jpg is test/apple/a.jpg): "
        "they were left out of training (--on-duplicate drop)",
        "two labels: 1 photo has several labels (test/pear/q.jpg as pear, train/apple/both.jpg as apple, "
        "train/pear/both.jpg as pear): none of their 3 files was used (--on-duplicate drop)",
    )


def test_reporting_changes_no_photo() -> None:
    before = messy()
    found = settle(before, "report")
    assert (found.pool, found.held, found.test) == (before.pool, before.held, before.test)
    assert found.duplicates is not None
    first, second = duplicate_lines(found.duplicates)
    assert first.endswith("accuracy on test photos is too high by that; give --on-duplicate drop")
    assert second.endswith("all of them were used; give --on-duplicate drop")


def test_refusing_names_one_of_each_kind() -> None:
    with pytest.raises(InputError, match=r"^2 photos .*\(train/apple/1.jpg is .*, and 1 photo has .*; remove them, or"):
        settle(messy(), "refuse")


def test_photos_without_such_copies_stay_as_they_are_whatever_is_asked() -> None:
    clean = Photos(pool=(photo("a/1.jpg", "1"), photo("a/2.jpg", "1"), photo("b/3.jpg", "3")), test=())
    assert all(settle(clean, action) is clean for action in ("report", "drop", "refuse"))


def test_a_class_that_would_lose_all_its_photos_is_an_error() -> None:
    pool = (photo("train/a/1.jpg", "1"), photo("train/b/2.jpg", "2"))
    with pytest.raises(InputError, match="without them b has no photo to learn from"):
        settle(Photos(pool=pool, test=(photo("test/b/x.jpg", "2"),), root=Path("photos")), "drop")


def test_one_file_in_a_table_twice_is_told_by_its_labels_and_its_parts() -> None:
    """Rows of a table may name one file: equal photos in training and test, and one file under two labels."""
    one, other = Photo(Path("x.jpg"), "a", "1"), Photo(Path("y.jpg"), "a", "2")
    rest = (Photo(Path("z.jpg"), "a", "3"), Photo(Path("v.jpg"), "b", "4"))
    twice = Photo(Path("y.jpg"), "b", "2")
    found = settle(Photos(pool=(one, other, twice, *rest), test=(one,)), "drop")
    assert found.pool == rest
    assert found.test == (one,)
    assert found.duplicates is not None
    assert (found.duplicates.leaked, found.duplicates.contested, found.duplicates.contested_files) == (1, 1, 2)

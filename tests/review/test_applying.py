from __future__ import annotations

import csv
from pathlib import Path

import pytest

from oodguard.core.errors import InputError
from oodguard.core.files import file_sha256
from oodguard.review.applying import Applied, apply_marks
from oodguard.review.marks import Mark, MarkKind, MarkRow, to_csv
from oodguard.training.photos.labelled import find_photos, load_unlabelled
from tests.review.folders import put, put_all

KNOWN, STRANGER, LAMP, BAD = Mark.of("known", "plum"), Mark.of("stranger"), Mark.of("new", "lamp"), Mark.of("bad")


@pytest.fixture
def flagged(tmp_path: Path) -> Path:
    return put_all(tmp_path / "flagged", {"a.jpg": 9, "day/b.jpg": 10, "c.JPG": 11, "d.png": 12, "e.jpg": 13})


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Photos of two classes under train/ and test/."""
    for split in ("train", "test"):
        for seed, label in enumerate(("jade", "plum")):
            put(tmp_path / "photos" / split / label, "0.jpg", picture=50 + seed)
            (tmp_path / "photos" / split / label / "0.json").unlink()
    return tmp_path / "photos"


def mark(flagged: Path, **marks: Mark) -> Path:
    """Marks of pictures by the stems of their names, each with the SHA-256 of its bytes."""
    paths = {path.stem: path for path in flagged.rglob("*") if path.suffix.lower() in (".jpg", ".png")}
    rows = [
        MarkRow(paths[stem].relative_to(flagged).as_posix(), file_sha256(paths[stem]), one)
        for stem, one in marks.items()
    ]
    (flagged / "marks.csv").write_text(to_csv(rows), encoding="utf-8")
    return flagged / "marks.csv"


def files(*folders: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for one in folders for path in one.rglob("*") if path.is_file()}


def test_marks_become_folders_that_train_takes(flagged: Path, trained: Path) -> None:
    before = files(flagged)
    marks = mark(flagged, a=KNOWN, b=LAMP, c=STRANGER, d=BAD)
    found = apply_marks(flagged, marks, trained)
    name = {
        path.stem: f"flagged-{file_sha256(path)[:20]}{path.suffix.lower()}" for path in flagged.rglob("*.[jJ][pP]*")
    }
    assert (trained / "train" / "plum" / name["a"]).read_bytes() == (flagged / "a.jpg").read_bytes()
    assert (trained / "train" / "lamp" / name["b"]).read_bytes() == (flagged / "day" / "b.jpg").read_bytes()
    assert [path.name for path in found.strangers.iterdir()] == [name["c"]]
    assert found.strangers == trained.parent / "photos-strangers"
    assert (found.copied, found.there, found.left) == (3, 0, ())
    assert (found.classes, found.new) == ({"lamp": 1, "plum": 1}, {"lamp"})
    assert found.marks == dict.fromkeys(MarkKind, 1)
    # Nothing is moved.
    assert {path: data for path, data in files(flagged).items() if path in before} == before
    photos = find_photos(trained, trained.parent / "cache")
    assert sorted(photo.label for photo in photos.pool) == ["jade", "lamp", "plum", "plum"]
    assert len(load_unlabelled(found.strangers)) == 1
    # For recalibrate, where the sidecar tells that a picture was flagged.
    assert found.known == (flagged / "a.jpg",)


def test_a_record_says_where_each_copy_came_from_and_only_grows(flagged: Path, trained: Path) -> None:
    found = apply_marks(flagged, mark(flagged, a=KNOWN, c=STRANGER), trained)
    first = found.record.read_text(encoding="utf-8")
    rows = list(csv.DictReader(first.splitlines()))
    assert [(row["mark"], row["class"], row["from"]) for row in rows] == [
        ("known", "plum", str(flagged / "a.jpg")),
        ("stranger", "", str(flagged / "c.JPG")),
    ]
    assert [file_sha256(Path(row["to"])) for row in rows] == [row["sha256"] for row in rows]
    apply_marks(flagged, mark(flagged, a=KNOWN, c=STRANGER, b=LAMP), trained)
    second = found.record.read_text(encoding="utf-8")
    assert second.startswith(first)
    assert second[len(first) :].count("\n") == 1


def test_applying_twice_does_nothing_twice(flagged: Path, trained: Path) -> None:
    marks = mark(flagged, a=KNOWN, b=LAMP, c=STRANGER)
    found = apply_marks(flagged, marks, trained)
    before = files(trained, found.strangers, trained.parent)
    again = apply_marks(flagged, marks, trained)
    assert (again.copied, again.there) == (0, 3)
    assert files(trained, found.strangers, trained.parent) == before


def test_a_copy_that_a_kill_left_out_of_the_record_is_recorded(flagged: Path, trained: Path) -> None:
    marks = mark(flagged, a=KNOWN, b=LAMP)
    record = apply_marks(flagged, marks, trained).record
    whole = record.read_text()
    record.write_text("".join(whole.splitlines(keepends=True)[:2]))
    apply_marks(flagged, marks, trained)
    assert [line.split(",")[1] for line in record.read_text().splitlines()] == [
        line.split(",")[1] for line in whole.splitlines()
    ]


def test_a_dry_run_writes_nothing(flagged: Path, trained: Path) -> None:
    marks = mark(flagged, a=KNOWN, b=LAMP, c=STRANGER)
    before = files(trained.parent)
    found = apply_marks(flagged, marks, trained, dry_run=True)
    assert (found.copied, found.there) == (3, 0)
    assert files(trained.parent) == before
    assert not found.strangers.exists()


def test_classes_without_splits_and_folders_that_are_not_there_yet(flagged: Path, tmp_path: Path) -> None:
    found = apply_marks(flagged, mark(flagged, a=KNOWN, b=LAMP), tmp_path / "fresh", strangers=tmp_path / "odd")
    assert sorted(path.name for path in (tmp_path / "fresh").iterdir()) == ["lamp", "plum"]
    assert found.photos == tmp_path / "fresh"
    mark(flagged, c=STRANGER)
    apply_marks(flagged, flagged / "marks.csv", tmp_path / "fresh", strangers=tmp_path / "odd")
    assert len(list((tmp_path / "odd").iterdir())) == 1


def test_a_wrapping_folder_is_stepped_into_as_training_does(flagged: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "zip").mkdir()
    trained.rename(tmp_path / "zip" / "inner")
    found = apply_marks(flagged, mark(flagged, a=KNOWN), tmp_path / "zip")
    assert found.photos == tmp_path / "zip" / "inner" / "train"
    assert len(find_photos(tmp_path / "zip", tmp_path / "cache").pool) == 3


def left(found: Applied) -> list[str]:
    return [one.why for one in found.left]


def test_what_cannot_be_copied_is_left_and_named_while_all_else_is(flagged: Path, trained: Path) -> None:
    marks = mark(flagged, a=KNOWN, b=Mark.of("known", "melon"), c=Mark.of("new", "PLUM"), d=STRANGER, e=STRANGER)
    (flagged / "d.png").write_bytes((flagged / "d.png").read_bytes() + b"changed")
    (flagged / "e.json").unlink()
    with marks.open("a", encoding="utf-8") as stream:
        stream.write("../photos/train/plum/0.jpg,,stranger,,,\n")
    found = apply_marks(flagged, marks, trained)
    assert found.copied == 1
    assert left(found) == [
        f"{trained / 'train'} has no class melon; name its photos with --into, or mark a new class",
        f"{trained / 'train'} has a class plum; write PLUM like that",
        "the file was changed since it was marked; mark it again",
        "there is no such picture with a sidecar in the folder",
        "there is no such picture with a sidecar in the folder",
    ]
    assert len(find_photos(trained, trained.parent / "cache").pool) == 3


def test_no_class_leaves_the_folder_of_photos(flagged: Path, trained: Path) -> None:
    mark(flagged, a=KNOWN)
    for name in ("../up", "/etc", "a/b", "train", ".."):
        (flagged / "marks.csv").write_text(f"path,mark,class\na.jpg,known,{name}\n")
        found = apply_marks(flagged, flagged / "marks.csv", trained)
        assert (found.copied, len(found.left)) == (0, 1)
        (flagged / "marks.csv").write_text(f"path,mark,class\na.jpg,new class,{name}\n")
        with pytest.raises(InputError, match="line 2"):
            apply_marks(flagged, flagged / "marks.csv", trained)


def test_nothing_is_overwritten(flagged: Path, trained: Path) -> None:
    marks = mark(flagged, a=KNOWN)
    target = trained / "train" / "plum" / f"flagged-{file_sha256(flagged / 'a.jpg')[:20]}.jpg"
    target.write_bytes(b"mine")
    found = apply_marks(flagged, marks, trained)
    assert target.read_bytes() == b"mine"
    assert left(found) == [f"{target} is there, and another picture; rename that file"]
    assert (found.copied, found.there, found.known) == (0, 0, ())


def test_a_mark_that_was_changed_asks_for_the_old_copy_to_go(flagged: Path, trained: Path) -> None:
    apply_marks(flagged, mark(flagged, a=KNOWN), trained)
    (old,) = (trained / "train" / "plum").glob("flagged-*")
    for other in (Mark.of("known", "jade"), STRANGER, BAD):
        found = apply_marks(flagged, mark(flagged, a=other), trained)
        assert left(found) == [f"an earlier mark copied it to {old}; remove that file, and run this again"]
    old.unlink()
    found = apply_marks(flagged, mark(flagged, a=Mark.of("known", "jade")), trained)
    assert (found.copied, found.left) == (1, ())


def test_one_picture_twice_needs_one_mark_and_is_copied_once(flagged: Path, trained: Path) -> None:
    put(flagged, "twin.jpg", picture=(flagged / "a.jpg").read_bytes())
    found = apply_marks(flagged, mark(flagged, a=KNOWN, twin=KNOWN), trained)
    assert (found.copied, found.classes) == (1, {"plum": 1})
    found = apply_marks(flagged, mark(flagged, a=KNOWN, twin=STRANGER), trained)
    assert left(found) == ["the same picture, a.jpg, has another mark; give both one mark"]


def test_targets_that_cannot_be_are_refused(flagged: Path, trained: Path, tmp_path: Path) -> None:
    marks = mark(flagged, a=KNOWN)
    (tmp_path / "photos.zip").write_bytes(b"zip")
    with pytest.raises(InputError, match="is no folder"):
        apply_marks(flagged, marks, tmp_path / "photos.zip")
    with pytest.raises(InputError, match="where it would be a class"):
        apply_marks(flagged, marks, trained, strangers=trained / "strangers")
    with pytest.raises(InputError, match=r"absent\.csv cannot be read"):
        apply_marks(flagged, flagged / "absent.csv", trained)
    (tmp_path / "photos-from-review.csv").write_text("odd\n1\n")
    with pytest.raises(InputError, match="is no record of copied pictures"):
        apply_marks(flagged, marks, trained)

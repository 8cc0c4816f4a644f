from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from oodguard.core.errors import InputError
from oodguard.training.photos.kinds import EXCLUDED, Kind, parse_kinds
from oodguard.training.photos.labelled import Photos, load_photos
from oodguard.training.photos.suspects import COLUMNS, Suspect, exclude, label_line, read_rows, to_csv, with_kept

NAMES = ("train/amber/000.jpg", "train/amber/001.jpg", "train/jade/002.jpg", "test/plum/003.jpg")


def suspect(path: str, kind: Kind, **more: object) -> Suspect:
    return Suspect(**{"path": path, "label": "amber", "kind": kind, "reason": "so", "rank": 1, **more})  # type: ignore[arg-type]


@pytest.fixture
def found(photos: Path, tmp_path: Path) -> Photos:
    return load_photos(photos, tmp_path / "cache")


def put(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_reads_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [
        suspect('a, "b"/c;d.jpg', Kind.LABEL, suggested="jade", score=0.98765, keep="x"),
        suspect("=cmd()/e\n.jpg", Kind.COPY),
        suspect("\udcff.jpg", Kind.DARK),
    ]
    path = put(tmp_path, to_csv(rows))
    with path.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.reader(stream))
    assert tuple(lines[0]) == COLUMNS
    assert lines[1] == ['a, "b"/c;d.jpg', "amber", "label", "so", "jade", "0.9877", "1", "x"]
    assert [row.path for row in read_rows(path)] == ['a, "b"/c;d.jpg', "'=cmd()/e\\x0a.jpg", "\\xff.jpg"]
    assert [row.keep for row in read_rows(path)] == ["x", "", ""]


def test_kept_rows_stay_kept_in_the_next_list(tmp_path: Path) -> None:
    before = [suspect("=a.jpg", Kind.LABEL, keep="fine"), suspect("=a.jpg", Kind.COPY), suspect("gone.jpg", Kind.COPY)]
    rows = read_rows(put(tmp_path, to_csv(before)))
    now = with_kept([suspect("=a.jpg", Kind.LABEL, score=0.9), suspect("=a.jpg", Kind.COPY)], rows)
    assert [(one.kind, one.keep) for one in now] == [(Kind.LABEL, "fine"), (Kind.COPY, "")]


def test_photos_of_the_list_are_left_out_by_kind(found: Photos, tmp_path: Path) -> None:
    rows = [
        suspect(NAMES[0], Kind.LABEL),
        suspect(NAMES[0], Kind.COPY),
        suspect(NAMES[1], Kind.COPY),
        suspect(NAMES[2], Kind.DARK),
        suspect(NAMES[3], Kind.COPY_ACROSS),
    ]
    path = put(tmp_path, to_csv(rows))
    left = exclude(found, path, (Kind.LABEL, *EXCLUDED))
    assert (len(left.pool), len(left.test)) == (178, 44)
    assert left.left_out == {"label": 1, "copy": 1, "copy-across": 1}
    gone = {found.name(photo) for photo in (*found.pool, *found.test)} - {
        left.name(photo) for photo in (*left.pool, *left.test)
    }
    assert gone == {NAMES[0], NAMES[1], NAMES[3]}
    assert exclude(found, path, parse_kinds("dark")).left_out == {"dark": 1}
    assert exclude(found, path, ()).left_out == {}


def test_what_somebody_keeps_stays_whatever_else_is_said_of_it(found: Photos, tmp_path: Path) -> None:
    rows = [suspect(NAMES[0], Kind.LABEL, keep="yes"), suspect(NAMES[0], Kind.COPY), suspect(NAMES[1], Kind.COPY)]
    assert exclude(found, put(tmp_path, to_csv(rows)), EXCLUDED).left_out == {"copy": 1}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_lists_of_spreadsheets_and_of_people_are_read(found: Photos, tmp_path: Path, separator: str) -> None:
    head, rows = ["Path", "Note"], [[NAMES[0], "no"], [NAMES[2], "no"], ["", ""]]
    text = "\ufeff" + "\r\n".join(separator.join(row) for row in (head, *rows))
    assert exclude(found, put(tmp_path, text), EXCLUDED).left_out == {"listed": 2}


@pytest.mark.parametrize("saved", ["'=odd, name.jpg", "=odd, name.jpg"])
def test_a_name_that_looks_like_a_formula_is_found(photos: Path, tmp_path: Path, saved: str) -> None:
    root = tmp_path / "photos"
    shutil.copytree(photos / "train", root)
    for label in ("amber", "jade"):
        shutil.move(root / label, root / f"={label}")
    (root / "=amber" / "000.jpg").rename(root / "=amber" / "=odd, name.jpg")
    found = load_photos(root, tmp_path / "cache")
    text = f'path\n"{saved[: -len("=odd, name.jpg")]}=amber/=odd, name.jpg"\n'
    assert exclude(found, put(tmp_path, text), EXCLUDED).left_out == {"listed": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,kind\na,label\n", "no column named path"),
        ("", "no column named path"),
        ("path\nelsewhere/a.jpg\n", "names no photo of"),
    ],
)
def test_other_lists_are_refused_in_one_sentence(found: Photos, tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        exclude(found, put(tmp_path, text), EXCLUDED)


def test_a_list_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"path\n\xff\xfe")
    for name, why in (("gone.csv", "No such file"), ("x.csv", "not UTF-8")):
        with pytest.raises(InputError, match=why):
            read_rows(tmp_path / name)


def test_no_class_is_left_out_whole(found: Photos, tmp_path: Path) -> None:
    text = "path\n" + "".join(f"{found.name(photo)}\n" for photo in found.pool if photo.label == "jade")
    with pytest.raises(InputError, match="leaves no photo of jade"):
        exclude(found, put(tmp_path, text), EXCLUDED)


def test_kinds_are_named_as_they_are() -> None:
    assert parse_kinds(" copy, label,") == (Kind.COPY, Kind.LABEL)
    assert parse_kinds("copies") == (Kind.COPY_ACROSS, Kind.COPY, Kind.NEAR_COPY)
    assert parse_kinds("copy,copies,unreadable") == (Kind.COPY, Kind.COPY_ACROSS, Kind.NEAR_COPY, Kind.UNREADABLE)
    assert parse_kinds("any") == tuple(Kind)
    with pytest.raises(ValueError, match="'labels' is no kind of suspect; the kinds are label"):
        parse_kinds("labels")


def test_photos_whose_label_looks_wrong_stay_until_somebody_names_the_kind(found: Photos, tmp_path: Path) -> None:
    rows = [suspect(NAMES[0], Kind.LABEL), suspect(NAMES[1], Kind.LABEL, keep="fine"), suspect(NAMES[2], Kind.COPY)]
    path = put(tmp_path, to_csv(rows))
    left = exclude(found, path, EXCLUDED)
    assert left.left_out == {"copy": 1}
    stays = label_line(left, path, EXCLUDED)
    assert stays is not None
    assert stays.startswith("labels: 1 of 225 photos (0.4%) have a label that looks wrong and stay in; look at them")
    named = (Kind.LABEL, *EXCLUDED)
    assert parse_kinds("label,copies,unreadable") == named
    gone = label_line(exclude(found, path, named), path, named)
    assert gone is not None
    assert gone.startswith("labels: 1 of 225 photos (0.4%) are left out because their label looks wrong")
    assert label_line(left, put(tmp_path, to_csv(rows[1:])), EXCLUDED) is None

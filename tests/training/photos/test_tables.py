"""Labels from tables, as people and programs write them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from oodguard.core.columns import Columns
from oodguard.core.errors import InputError
from oodguard.core.photo_folders import FolderRules, Part
from oodguard.training.photos.labelled import find_photos, load_photos
from oodguard.training.photos.tables import photos_of_table, read_table

NONE = Columns()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six photos of two classes, in one folder."""
    root = tmp_path / "shop"
    (root / "img").mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(root / "img" / f"{number}.png")
    return root


def written(path: Path, header: str, rows: Iterable[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def plain(folder: Path) -> Path:
    return written(folder / "photos.csv", "path,label", (f"img/{n}.png,{'ab'[n % 2]}" for n in range(6)))


def test_the_same_photos_as_folders_give_the_same_data(photos: Path, tmp_path: Path) -> None:
    files = [path.relative_to(photos) for path in sorted(photos.rglob("*.jpg"))]
    table = photos / "photos.csv"
    try:
        with table.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "label", "split"])
            writer.writerows([path.as_posix(), path.parts[1], path.parts[0]] for path in files)
        found, folders = load_photos(table, tmp_path), load_photos(photos, tmp_path)
        frame = pd.DataFrame({"file_name": map(str, files), "Class": pd.Categorical([p.parts[1] for p in files])})
        frame.assign(subset=["Training" if p.parts[0] == "train" else "Testing" for p in files]).to_parquet(
            photos / "photos.parquet"
        )
        parquet = load_photos(photos / "photos.parquet", tmp_path)
    finally:
        for name in ("photos.csv", "photos.parquet"):
            (photos / name).unlink(missing_ok=True)
    assert found.fingerprint == folders.fingerprint == parquet.fingerprint
    assert (len(found.pool), len(found.test)) == (180, 45)
    assert found.name(found.pool[0]) == "train/amber/000.jpg"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(("path", "label"), [("path", "label"), ("Filename", "CLASS"), ("image", "species")])
def test_usual_headers_and_separators(folder: Path, separator: str, path: str, label: str) -> None:
    rows = (separator.join([f"img/{n}.png", "ab"[n % 2]]) for n in range(6))
    table = written(folder / "photos.csv", separator.join([path, label]), rows)
    table.write_text("\ufeff" + table.read_text(encoding="utf-8"), encoding="utf-8")
    found = find_photos(table, folder)
    assert [(photo.path.name, photo.label) for photo in found.pool] == [(f"{n}.png", "ab"[n % 2]) for n in range(6)]
    assert found.name(found.pool[3]) == "img/3.png"


def test_columns_may_be_named_and_absolute_windows_and_upward_paths_are_found(folder: Path) -> None:
    (folder / "lists").mkdir()
    paths = [str(folder / "img" / "0.png"), "..\\img\\1.png", "../img/2.png", "../img/3.png"]
    rows = (f"{path},{'xy'[n % 2]},noise" for n, path in enumerate(paths))
    table = written(folder / "lists" / "t.csv", "where,what,label", rows)
    found = find_photos(table, folder, FolderRules(columns=Columns(path="where", label="What")))
    assert [(photo.path.resolve().name, photo.label) for photo in found.pool] == [
        ("0.png", "x"), ("1.png", "y"), ("2.png", "x"), ("3.png", "y"),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"t.csv has no column wher; it has where, what, label"):
        find_photos(table, folder, FolderRules(columns=Columns(path="wher")))
    with pytest.raises(InputError, match=r"no column for the path \(path, file, .*it has where, .*--path-column"):
        find_photos(table, folder)


def test_splits_have_their_usual_names_and_val_joins_training(folder: Path) -> None:
    splits = ["Train", "training", "VALID", "dev", "Testing", "test"]
    rows = (f"img/{n}.png,{'ab'[n % 2]},{split}" for n, split in enumerate(splits))
    table = written(folder / "photos.csv", "path,label,Split", rows)
    listed = photos_of_table(table, NONE)
    assert [[photo.path.stem for photo in part] for part in (listed.pool, listed.held, listed.test)] == [
        ["0", "1"], ["2", "3"], ["4", "5"],
    ]  # fmt: skip
    found = find_photos(table, folder)
    assert (len(found.pool), found.held, len(found.test)) == (4, (), 2)
    written(table, "path,label,split", ["img/0.png,a,train", "img/1.png,b,fold 3"])
    with pytest.raises(InputError, match=r"^line 3 of photos.csv has the split fold 3; write train, val or test$"):
        find_photos(table, folder)
    written(table, "path,label,split", ["img/0.png,a,test", "img/1.png,b,test"])
    with pytest.raises(InputError, match=r"^photos.csv has no photos to train on, only some of val or test"):
        find_photos(table, folder)


def test_a_column_called_set_that_speaks_of_something_else_is_no_split(folder: Path) -> None:
    table = written(folder / "photos.csv", "path,label,set", (f"img/{n}.png,{'ab'[n % 2]},Lego {n}" for n in range(6)))
    assert len(find_photos(table, folder).pool) == 6
    with pytest.raises(InputError, match=r"^line 2 of photos.csv has the split Lego 0"):
        find_photos(table, folder, FolderRules(columns=Columns(split="set")))


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("cat|dog", "cat, dog"),
        ("cat; dog", "cat, dog"),
        ('"[""cat"", ""dog""]"', "cat, dog"),
        ("\"['cat', 'dog']\"", "cat, dog"),
        ('"a, b"', "a, b"),
    ],
)
def test_a_row_of_several_labels_is_refused_and_named(folder: Path, label: str, shown: str) -> None:
    table = written(folder / "photos.csv", "path,label", ["img/0.png,a", "img/1.png,b", f"img/2.png,{label}"])
    with pytest.raises(InputError, match=rf"^line 4 of photos.csv has several labels \({shown}\), and a classifier"):
        find_photos(table, folder)


def test_commas_and_brackets_in_a_name_are_no_second_label(folder: Path) -> None:
    rows = ['img/0.png,"shoes, size 40"', "img/1.png,['hat']", "img/2.png,a (b)"]
    found = read_table(written(folder / "photos.csv", "path,label", rows), NONE)
    assert [entry.label for entry in found] == ["shoes, size 40", "hat", "a (b)"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["img/0.png,a", "img/1.png,"], "line 3 of photos.csv has no label; give it one"),
        (["img/0.png,a", ",b"], "line 3 of photos.csv names no file"),
        (["https://example.org/a.png,a"], "names an address, and nothing is fetched"),
        (["img/0.png,a,b"], "line 2 of photos.csv has 3 cells, and the header 2; .*double quotes"),
        ([], "photos.csv has no rows"),
        (["img/7.png,a", "img/8.png,b"], r"none of the 2 files that photos.csv names is there, the first: img/7.png"),
        (
            ["img/0.png,a", "img/1.png,c", "img/8.png,b", "img/9.png,b"],
            r"none of the 2 files of b that photos.csv names is there, the first: img/8.png \(line 4 .*2 of 4 files",
        ),
        (["img/0.png,a", "img/1.png,a"], r"has one class \(a\); at least 2 are needed"),
        (["img/0.png,a", "img/1.png,A"], "a of .* and A of .*|A of .* and a of .* differ only in capital letters"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_one_sentence_that_names_the_row(
    folder: Path, rows: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_photos(written(folder / "photos.csv", "path,label", rows), folder)


def test_missing_files_are_passed_over_counted_and_named(folder: Path) -> None:
    table = plain(folder)
    (folder / "img" / "3.png").unlink()
    (folder / "img" / "4.png").unlink()
    (folder / "img" / "4.png").mkdir()
    found = find_photos(table, folder)
    assert len(found.pool) == 4
    assert [(one.name, one.unreadable) for one in found.passed] == [("img/3.png", True), ("img/4.png", True)]
    assert found.passed[0].reason == "line 5 of photos.csv names it, and there is no such file"


def test_classes_of_test_rows_must_be_trained(folder: Path) -> None:
    rows = ["img/0.png,a,train", "img/1.png,b,train", "img/2.png,c,test"]
    with pytest.raises(InputError, match="test has classes that train lacks: c"):
        find_photos(written(folder / "photos.csv", "path,label,split", rows), folder)


def test_class_numbers_are_named_by_a_file_and_by_hugging_face(folder: Path) -> None:
    table = written(folder / "photos.csv", "path,label", (f"img/{n}.png,{n % 2}" for n in range(6)))
    assert find_photos(table, folder).classes == ("0", "1")
    names = folder / "names.txt"
    names.write_text("apple\npear\n")
    rules = FolderRules(columns=Columns(class_names=names))
    assert find_photos(table, folder, rules).classes == ("apple", "pear")
    written(table, "path,label", ["img/0.png,0", "img/1.png,2"])
    with pytest.raises(InputError, match=r"line 3 of photos.csv has the label 2, and there are 2 class names"):
        find_photos(table, folder, rules)
    features = {"image": {"dtype": "string"}, "label": {"names": ["fig", "kiwi"], "_type": "ClassLabel"}}
    data = pa.table({"image": [f"img/{n}.png" for n in range(4)], "label": pa.array([0, 1, 0, 1], pa.int64())})
    described = data.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(described, folder / "hf.parquet")
    assert [photo.label for photo in find_photos(folder / "hf.parquet", folder).pool] == ["fig", "kiwi"] * 2
    pq.write_table(data.set_column(1, "label", pa.array([0, 1, -1, 1])), folder / "unlabelled.parquet")
    assert find_photos(folder / "unlabelled.parquet", folder).classes == ("-1", "0", "1")


def test_parquet_rows_of_several_labels_are_named_and_one_in_a_list_counts(folder: Path) -> None:
    paths = [f"img/{n}.png" for n in range(3)]
    pq.write_table(pa.table({"path": paths, "labels": [["a"], ["b"], ["a"]]}), folder / "lists.parquet")
    assert [photo.label for photo in find_photos(folder / "lists.parquet", folder).pool] == ["a", "b", "a"]
    pq.write_table(pa.table({"path": paths, "labels": [["a"], ["b"], ["a", "b"]]}), folder / "lists.parquet")
    with pytest.raises(InputError, match=r"^row 2 of lists.parquet has several labels \(a, b\)"):
        find_photos(folder / "lists.parquet", folder)


def test_a_table_goes_where_its_photos_go(folder: Path, tmp_path: Path) -> None:
    before = find_photos(plain(folder), tmp_path)
    shutil.move(folder, tmp_path / "elsewhere")
    after = find_photos(tmp_path / "elsewhere" / "photos.csv", tmp_path)
    assert after.fingerprint == before.fingerprint
    assert after.name(after.pool[0]) == before.name(before.pool[0])
    assert read_table(tmp_path / "elsewhere" / "photos.csv", NONE)[0].part is Part.TRAIN

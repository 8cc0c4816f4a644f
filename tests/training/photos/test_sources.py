"""Shards of WebDataset and Parquet files of images, as their own libraries write them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from oodguard.core.columns import Columns
from oodguard.core.errors import InputError
from oodguard.core.photo_folders import FolderRules
from oodguard.training.photos import packed
from oodguard.training.photos.labelled import every_photo, find_photos, load_photos
from oodguard.training.photos.photo import Photos
from oodguard.training.photos.sources import listed_photos


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 255 - number, 7)).save(stream, "PNG")
    return stream.getvalue()


def shard(path: Path, files: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in files.items():
            encoded = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(encoded)
            archive.addfile(info, io.BytesIO(encoded))
    return path


def samples(first: int, count: int) -> dict[str, bytes | str]:
    """Samples as WebDataset's own writer names them: an image, and a class number as text."""
    found: dict[str, bytes | str] = {}
    for number in range(first, first + count):
        found |= {f"sample{number:04d}.cls": str(number % 2), f"sample{number:04d}.png": png(number)}
    return found


def labels(found: Photos) -> list[str]:
    return [photo.label for photo in found.pool]


def test_a_folder_of_shards_has_the_splits_of_their_names_and_the_names_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shard(folder / "fruit-train-000000.tar", samples(0, 4))
    shard(folder / "fruit-train-000001.tar.gz", samples(4, 4))
    shard(folder / "fruit-val-000000.tar", samples(8, 2))
    shard(folder / "fruit-test-000000.tar", samples(10, 4))
    (folder / "classes.txt").write_text("apple\npear\n")
    listed = listed_photos(folder, tmp_path / "cache")
    assert listed is not None
    assert [len(part) for part in (listed.pool, listed.held, listed.test)] == [8, 2, 4]
    found = load_photos(folder, tmp_path / "cache")
    assert found.classes == ("apple", "pear")
    assert labels(found) == ["apple", "pear"] * 5
    assert [photo.path.read_bytes() for photo in found.pool] == [png(number) for number in range(10)]
    assert found.name(found.pool[4]) == "fruit-train-000001.tar.gz/0000008-sample0004.png"
    assert len(every_photo(folder, tmp_path / "cache")) == 14


def test_photos_are_unpacked_once_by_content_and_what_is_left_half_done_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shard(tmp_path / "a.tar", samples(0, 4))
    first = find_photos(source, tmp_path / "cache")
    assert len([*(tmp_path / "cache" / "unpacked").iterdir()]) == 1
    monkeypatch.setattr(packed, "_write", None)
    again = find_photos(source, tmp_path / "cache")
    assert again == first
    monkeypatch.undo()
    shard(source, samples(1, 4))
    assert find_photos(source, tmp_path / "cache").fingerprint != first.fingerprint
    monkeypatch.setattr(packed, "MAX_BYTES", 200)
    with pytest.raises(InputError, match=r"^sample0003 of a.tar and what is before it are more than"):
        find_photos(source, tmp_path / "other")
    assert [*(tmp_path / "other" / "unpacked").iterdir()] == []


def test_labels_are_in_json_or_text_as_well(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {}
    for number in range(4):
        files |= {f"{number}.jpg": png(number), f"{number}.json": json.dumps({"label": "ab"[number % 2], "id": 9})}
    assert labels(find_photos(shard(tmp_path / "a.tar", files), tmp_path)) == ["a", "b"] * 2
    kinds = {f"{number}.json": json.dumps({"kind": "xy"[number % 2]}) for number in range(4)}
    named = {name: kinds.get(name, data) for name, data in files.items()}
    rules = FolderRules(columns=Columns(label="kind"))
    assert labels(find_photos(shard(tmp_path / "b.tar", named), tmp_path, rules)) == ["x", "y"] * 2
    texts = {name.replace("json", "txt"): "no\n" if name[0] in "02" else "yes\n" for name in files if "json" in name}
    text = {name: {**files, **texts}[name] for name in sorted({*files, *texts}) if not name.endswith("json")}
    assert labels(find_photos(shard(tmp_path / "c.tar", text), tmp_path)) == ["no", "yes"] * 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": png(1), "a.json": '{"label": ["cat", "dog"]}'}, r"^a of s.tar has several labels \(cat, dog\)"),
        ({"a.png": png(1), "a.txt": "cat|dog"}, r"^a of s.tar has several labels \(cat, dog\)"),
        ({"a.png": png(1)}, r"^a of s.tar has no label beside it .*where folders are the classes, unpack"),
        ({"a.png": png(1), "a.json": "{}"}, "a of s.tar has no label"),
        ({"a.png": png(1), "a.json": "{"}, "the json of a of s.tar cannot be read"),
        ({"a.bin": b"photo", "a.cls": "1"}, "a of s.tar has no image that can be read, and bin"),
        ({"a.png": png(1), "a.seg.png": png(2), "a.cls": "1"}, r"several images \(png, seg.png\); .*--path-column"),
        ({"a.png": png(1), "b.png": png(2), "a.cls": "1", "b.cls": "1"}, "a of s.tar has no label"),
        ({"a.cls": "1", "b.cls": "1", "b.png": png(1), "a.png": png(2)}, "a in s.tar do not follow each other"),
        ({"index.json": "{}"}, "s.tar has no photos"),
    ],
)  # fmt: skip
def test_a_sample_that_cannot_be_understood_is_named(
    tmp_path: Path, files: Mapping[str, bytes | str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_photos(shard(tmp_path / "s.tar", files), tmp_path / "cache")


def test_the_ending_of_the_image_may_be_named_and_content_makes_one_without(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {}
    for number in range(4):
        files |= {
            f"dir/{number}.image": png(number),
            f"dir/{number}.mask.png": png(99),
            f"dir/{number}.cls": str(number % 2),
        }
    source = shard(tmp_path / "a.tar", files)
    with pytest.raises(InputError, match=r"dir/0 of a.tar has several images \(image, mask.png\)"):
        find_photos(source, tmp_path)
    found = find_photos(source, tmp_path, FolderRules(columns=Columns(path="image")))
    assert [photo.path.read_bytes() for photo in found.pool] == [png(number) for number in range(4)]


def test_names_in_shards_lead_nowhere(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {}
    for number, key in enumerate(("/etc/x", "../../y", "a/../z", "C:\\w", "\x1b[2J", "ä b", "-rf", "a" * 90)):
        files |= {f"{key}.png": png(number), f"{key}.cls": str(number % 2)}
    found = find_photos(shard(tmp_path / "a.tar", files), tmp_path / "cache")
    assert [found.name(photo) for photo in found.pool] == [
        "a.tar/0000000-x.png", "a.tar/0000001-y.png", "a.tar/0000002-z.png", "a.tar/0000003-w.png",
        "a.tar/0000004-2J.png", "a.tar/0000005-b.png", "a.tar/0000006--rf.png", f"a.tar/0000007-{'a' * 80}.png",
    ]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "cache"}


def test_damage_and_links_are_errors_not_the_end(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a.tar", samples(0, 6)).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 512 * 7 + 100])
    with pytest.raises(InputError, match=r"a.tar is damaged"):
        find_photos(tmp_path / "a.tar", tmp_path)
    packed_whole = shard(tmp_path / "b.tgz", samples(0, 6)).read_bytes()
    (tmp_path / "b.tgz").write_bytes(packed_whole[: len(packed_whole) // 2])
    with pytest.raises(InputError, match=r"b.tgz is damaged"):
        find_photos(tmp_path / "b.tgz", tmp_path)
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        link = tarfile.TarInfo("x.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(InputError, match=r"x.png of c.tar is a link or a device"):
        find_photos(tmp_path / "c.tar", tmp_path)


def hugging_face(path: Path, rows: list[dict[str, Any]], names: list[str] | None = None) -> Path:
    """A file as `Dataset.to_parquet` writes it: a struct of bytes and path, and the features in the schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    number = pa.int64() if names else pa.string()
    table = pa.Table.from_pylist(rows, schema=pa.schema({"image": image, "label": number}))
    label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "string", "_type": "Value"}
    features = {"image": {"_type": "Image"}, "label": label}
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path,
        row_group_size=3,
    )  # fmt: skip
    return path


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"image": {"bytes": png(number), "path": f"{number}.png"}, "label": number % 2}
        for number in range(first, first + count)
    ]


def test_files_of_hugging_face_have_their_splits_and_the_names_of_the_schema(tmp_path: Path) -> None:
    folder = tmp_path / "fruit" / "data"
    names = ["apple", "pear"]
    hugging_face(folder / "train-00000-of-00002-1a2b.parquet", rows(0, 4), names)
    hugging_face(folder / "train-00001-of-00002-3c4d.parquet", rows(4, 4), names)
    hugging_face(folder / "validation-00000-of-00001.parquet", rows(8, 2), names)
    hugging_face(folder / "test-00000-of-00001.parquet", rows(10, 4), names)
    for source in (folder, folder.parent):
        found = load_photos(source, tmp_path / "cache")
        assert labels(found) == ["apple", "pear"] * 5
        assert len(found.test) == 4
    assert found.name(found.pool[4]) == "train-00001-of-00002-3c4d.parquet/0000008-4.png"
    alone = find_photos(folder / "test-00000-of-00001.parquet", tmp_path / "cache")
    assert labels(alone) == ["apple", "pear"] * 2


def test_a_plain_column_of_bytes_with_names_and_a_split(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "img": [png(number) for number in range(6)],
            "category": ["a", "b"] * 3,
            "split": ["train"] * 4 + ["test"] * 2,
            "id": range(6),
        }
    )
    frame.to_parquet(tmp_path / "images.parquet")
    found = find_photos(tmp_path / "images.parquet", tmp_path / "cache")
    assert (labels(found), len(found.test)) == (["a", "b"] * 2, 2)
    assert found.name(found.pool[1]) == "images.parquet/0000001-row-1.png"
    frame.rename(columns={"category": "colour"}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"other.parquet has no column for the label .*--label-column"):
        find_photos(tmp_path / "other.parquet", tmp_path / "cache")
    rules = FolderRules(columns=Columns(label="colour", path="img", split="split"))
    assert labels(find_photos(tmp_path / "other.parquet", tmp_path / "cache", rules)) == ["a", "b"] * 2


def test_a_row_without_bytes_becomes_an_unreadable_photo_that_is_named(tmp_path: Path) -> None:
    given = [*rows(0, 4), {"image": {"bytes": None, "path": "lost.jpg"}, "label": 1}]
    found = find_photos(hugging_face(tmp_path / "a.parquet", given, ["a", "b"]), tmp_path / "cache")
    assert found.name(found.pool[4]) == "a.parquet/0000004-lost.no-bytes"
    assert found.pool[4].path.read_bytes() == b""


def test_rows_without_a_label_or_with_several_are_named(tmp_path: Path) -> None:
    given = [*rows(0, 2), {"image": {"bytes": png(7), "path": None}, "label": -1}]
    with pytest.raises(InputError, match=r"^row 2 of a.parquet has no label"):
        find_photos(hugging_face(tmp_path / "a.parquet", given, ["a", "b"]), tmp_path / "cache")
    table = pa.table({"image": [png(1), png(2)], "label": [["a"], ["a", "b"]]})
    pq.write_table(table, tmp_path / "lists.parquet")
    with pytest.raises(InputError, match=r"^row 1 of lists.parquet has several labels \(a, b\)"):
        find_photos(tmp_path / "lists.parquet", tmp_path / "cache")
    texts = [{**row, "label": ["cat", "dog", "cat, dog"][number]} for number, row in enumerate(rows(0, 3))]
    with pytest.raises(InputError, match=r"^row 2 of t.parquet has several labels \(cat, dog\)"):
        find_photos(hugging_face(tmp_path / "t.parquet", texts), tmp_path / "cache")


def test_a_folder_whose_files_are_named_after_splits_in_part_is_refused(tmp_path: Path) -> None:
    hugging_face(tmp_path / "d" / "train.parquet", rows(0, 4), ["a", "b"])
    hugging_face(tmp_path / "d" / "more.parquet", rows(4, 4), ["a", "b"])
    with pytest.raises(InputError, match=r"more.parquet is named after no split, and train.parquet is"):
        find_photos(tmp_path / "d", tmp_path / "cache")
    shard(tmp_path / "d" / "train.tar", samples(0, 4))
    with pytest.raises(InputError, match="holds shards and Parquet files"):
        find_photos(tmp_path / "d", tmp_path / "cache")


def test_a_folder_of_photos_with_a_table_beside_them_stays_a_folder(tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(number))
    shard(tmp_path / "photos" / "old.tar", samples(0, 4))
    assert listed_photos(tmp_path / "photos", tmp_path / "cache") is None
    assert find_photos(tmp_path / "photos", tmp_path / "cache").classes == ("a", "b")


def test_class_names_may_hold_any_sign_and_no_two_are_alike(tmp_path: Path) -> None:
    source = shard(tmp_path / "s" / "a.tar", samples(0, 4))
    names = tmp_path / "s" / "classes.json"
    names.write_text(json.dumps(["racket; of tennis", "[hat], cap|lid"]))
    assert find_photos(source, tmp_path / "cache").classes == ("[hat], cap|lid", "racket; of tennis")
    names.write_text(json.dumps({"0": "crane", "1": "crane"}))
    with pytest.raises(InputError, match="two of the class names are crane"):
        find_photos(source, tmp_path / "cache")

"""Names in the classifier's order, and the class of each folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oodguard.core.errors import InputError
from oodguard.training.photos.class_names import read_names
from oodguard.wrapping.classes import folder_orders, match_classes, names_of_metadata

FRUIT = ("apple", "pear", "plum", "quince")


def matched(folders: Any, *, count: int = 4, **how: Any) -> Any:
    (found,) = match_classes(folders, **{"count": count, "metadata": {}, **how})
    return found


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "apple\n\npear \nplum\nquince\n"),
        ("windows.txt", "\ufeffapple\r\npear\r\nplum\r\nquince\r\n"),
        ("names.json", '["apple", "pear", "plum", "quince"]'),
        ("config.json", '{"id2label": {"3": "quince", "0": "apple", "1": "pear", "2": "plum"}, "other": 1}'),
        ("label2id.json", '{"pear": 1, "apple": 0, "quince": 3, "plum": 2}'),
        ("timm.json", '{"label_names": ["apple", "pear", "plum", "quince"]}'),
    ],
)
def test_a_file_names_the_classes(name: str, text: str, tmp_path: Path) -> None:
    assert read_names(written(tmp_path, name, text)) == list(FRUIT)


@pytest.mark.parametrize("text", ['{"0": "a", "2": "b"}', "[]", "3", '["a", null]', '{"a": "b"}', '["a", ""]', ""])
def test_a_file_that_names_no_classes_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not name classes: give one a line"):
        read_names(written(tmp_path, "a.json", text))
    with pytest.raises(InputError, match="cannot be read"):
        read_names(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    "metadata",
    [
        {"names": "{0: 'apple', 1: 'pear', 2: 'plum', 3: 'quince'}"},
        {"character": "apple\npear\nplum\nquince"},
        {"id2label": json.dumps(dict(enumerate(FRUIT)))},
        {"classes": "apple,pear, plum,quince"},
        {"oodguard.classes": json.dumps(FRUIT), "names": "['a', 'b']"},
    ],
)
def test_metadata_name_the_classes(metadata: dict[str, str]) -> None:
    assert names_of_metadata(metadata) == list(FRUIT)
    found = matched(["plum", "pear"], metadata=metadata)
    assert (found.names, dict(found.folders)) == (FRUIT, {"plum": 2, "pear": 1})
    assert (found.uncovered, found.source, found.is_assumed) == (("apple", "quince"), "the file's metadata", False)
    assert found.targets(["pear", "nut", "plum"]) == [1, -1, 2]


@pytest.mark.parametrize("text", ["__import__('os')", "{'a'", "x" * (2 << 20), "one", "[" * 5000])
def test_metadata_that_name_nothing_are_left_alone(text: str) -> None:
    assert names_of_metadata({"names": text}) is None
    assert names_of_metadata({}) is None


def test_a_file_goes_before_the_metadata_and_these_before_the_folders(tmp_path: Path) -> None:
    file = written(tmp_path, "n.txt", "\n".join(FRUIT))
    metadata = {"names": "['quince', 'plum', 'pear', 'apple']"}
    assert matched(FRUIT, metadata=metadata, file=file).folders["apple"] == 0
    assert matched(FRUIT, metadata=metadata).folders["apple"] == 3
    # Metadata that name another number of things are of something else.
    assert matched(FRUIT, metadata={"names": "['a', 'b']"}).is_assumed


def test_folders_are_found_up_to_case_and_signs_and_by_number(tmp_path: Path) -> None:
    file = written(tmp_path, "n.txt", "Granny Smith\nRed-Delicious\nPink Lady\nBraeburn")
    found = matched(["granny_smith", "RED DELICIOUS", "2"], file=file)
    assert dict(found.folders) == {"granny_smith": 0, "RED DELICIOUS": 1, "2": 2}


def test_names_that_repeat_get_their_numbers(tmp_path: Path) -> None:
    file = written(tmp_path, "n.txt", "crane\nheron\ncrane")
    found = matched(["heron", "crane (2)"], count=3, file=file)
    assert (found.names, dict(found.folders)) == (("crane (0)", "heron", "crane (2)"), {"heron": 1, "crane (2)": 2})
    with pytest.raises(InputError, match=r"crane \(close: crane \(\d\)\)"):
        matched(["heron", "crane"], count=3, file=file)


def test_folders_that_are_no_classes_are_named_with_the_closest(tmp_path: Path) -> None:
    file = written(tmp_path, "n.txt", "\n".join(FRUIT))
    with pytest.raises(InputError, match=r"no classes of n.txt: apples \(close: apple\), nut; give --classes-map FILE"):
        matched(["apples", "pear", "nut"], file=file)
    with pytest.raises(InputError, match=r"n.txt names 4 classes and the classifier has 5"):
        matched(["pear", "plum"], count=5, file=file)
    with pytest.raises(InputError, match="show 1 of the classifier's 4 classes"):
        matched(["pear"], file=file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.csv", "folder,class\napples,apple\nAPPLES 2,0\nnut,-\n"),
        ("map.toml", 'apples = "apple"\n"APPLES 2" = 0\nnut = "-"\n'),
    ],
)
def test_a_mapping_renames_merges_and_drops_folders(name: str, text: str, tmp_path: Path) -> None:
    file, mapping = written(tmp_path, "n.txt", "\n".join(FRUIT)), written(tmp_path, name, text)
    found = matched(["apples", "APPLES 2", "nut", "pear"], file=file, mapping=mapping)
    assert dict(found.folders) == {"apples": 0, "APPLES 2": 0, "pear": 1}
    assert found.uncovered == ("plum", "quince")
    assert found.targets(["APPLES 2", "nut"]) == [0, -1]


def test_a_mapping_alone_says_all_where_it_gives_numbers(tmp_path: Path) -> None:
    mapping = written(tmp_path, "map.csv", "a,2\nb,0\nc,2\nd,-\n")
    found = matched(["a", "b", "c", "d"], mapping=mapping)
    assert (found.names, dict(found.folders)) == (("b", "1", "a", "3"), {"a": 2, "b": 0, "c": 2})
    assert (found.uncovered, found.is_assumed) == (("1", "3"), False)
    with pytest.raises(InputError, match="gives a the number 4; the classes are 0 to 3"):
        matched(["a", "b"], mapping=written(tmp_path, "m.csv", "a,4\nb,0\n"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "apples\n", "line 1: write folder,class"),
        ("a.csv", "a,b\na,c\n", "line 2: a is mapped twice"),
        ("a.csv", "elsewhere,apple\n", r"names folders that the photos do not have: elsewhere"),
        ("a.csv", "peer,apple\n", r"do not have: peer \(close: pear\)"),
        ("a.toml", "a = [1]", "maps folders to classes"),
        ("a.toml", "a =", "is not valid TOML"),
    ],
)
def test_a_mapping_that_says_nothing_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        matched(["pear", "plum"], mapping=written(tmp_path, name, text))


def test_folders_alone_are_the_classes_where_they_are_as_many(tmp_path: Path) -> None:
    found = matched(["plum", "apple", "quince", "pear"])
    assert (found.names, found.is_assumed, found.source) == (FRUIT, True, "the folders, sorted")
    for folders, said in ((FRUIT[:3], r"fewer folders \(3\)"), ((*FRUIT, "nut"), r"more folders \(5\)")):
        with pytest.raises(InputError, match=rf"nothing names the classifier's 4 classes, and the photos have {said}"):
            matched(folders)
    mapping = written(tmp_path, "map.csv", "nut,-\n")
    assert matched((*FRUIT, "nut"), mapping=mapping).names == FRUIT


def test_orders_of_folders_that_differ_are_all_given() -> None:
    numbers = [str(n) for n in range(12)]
    orders = folder_orders(numbers)
    assert [way for way, _ in orders] == ["sorted", "by number"]
    assert orders[0][1][:4] == ["0", "1", "10", "11"]
    assert orders[1][1] == numbers
    found = match_classes(numbers, count=12, metadata={})
    assert [one.folders["10"] for one in found] == [2, 10]
    assert [way for way, _ in folder_orders(["Zebra", "ant", "Bee"])] == ["sorted", "by number"]
    assert folder_orders(["b10", "B2", "a"])[2] == ("sorted without regard to case", ["a", "b10", "B2"])
    assert len(folder_orders(FRUIT)) == 1

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from oodguard.training.options import TrainOptions
from oodguard.training.photos.division import chosen_photos
from tests.cli.terminal import call
from tests.training.photos.test_check import make_messy


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    return make_messy(tmp_path / "photos")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_check_writes_a_list_that_keeps_what_somebody_wrote_and_that_train_takes(
    capsys: pytest.CaptureFixture[str], messy: Path, cache: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in messy.rglob("*"))
    arguments = ("check", messy, "--out", tmp_path / "check", "--cache", cache, "--image-size", "64")
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert "98 photos in 3 classes of 22 to 44" in out
    assert "4 files cannot be read" in out
    assert "--exclude" in out
    assert sorted(path.name for path in messy.rglob("*")) == before
    listed = tmp_path / "check" / "suspects.csv"
    found = rows(listed)
    assert (tmp_path / "check" / "check.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert found[0]["kind"] == "label"

    text = listed.read_text(encoding="utf-8").splitlines()
    place = next(i for i, line in enumerate(text) if ",copy,the same" in line)
    text[place] += "mine"
    listed.write_text("\n".join(text), encoding="utf-8")
    code, _, error = call(capsys, *arguments, "--fail-on", "copy,unreadable")
    assert code == 4
    assert "4 suspects of the kinds in --fail-on, the first: amber/empty.jpg (empty (0 bytes))" in error
    again = rows(listed)
    assert [row["keep"] for row in again if row["kind"] == "copy"] == ["mine"]
    assert call(capsys, *arguments, "--fail-on", "copy")[0] == 0
    code, _, error = call(capsys, *arguments, "--fail-on", "copies")
    assert (code, "suspects of the kinds in --fail-on" in error) == (4, True)

    photos, _ = chosen_photos(TrainOptions(data=messy, exclude=listed, cache=cache))
    # Nobody said that the suspect labels were looked at.
    assert {"jade/wrong-1.png", "plum/wrong-2.png"} <= {photos.name(photo) for photo in photos.pool}
    photos, _ = chosen_photos(
        TrainOptions(data=messy, exclude=listed, exclude_kinds="label,copies,unreadable", cache=cache)
    )
    names = {photos.name(photo) for photo in photos.pool}
    assert "amber/05 copy.png" in names
    assert "amber/blurred.png" in names
    assert not names & {"jade/wrong-1.png", "plum/wrong-2.png", "plum/03 again.png", "jade/09 mirrored.jpg"}
    assert photos.left_out["unreadable"] == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("check", "absent"), "absent does not exist"),
        (("check", "absent", "--fail-on", "labels"), "--fail-on: 'labels' is no kind of suspect"),
        (("train", "--data", "x", "--out", "y", "--exclude-kinds", "labels"), "'labels' is no kind of suspect"),
    ],
)
def test_mistakes_are_one_sentence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = call(capsys, *arguments)
    assert code == 2
    assert sentence in error
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_something_else_is_not_overwritten(
    capsys: pytest.CaptureFixture[str], messy: Path, tmp_path: Path
) -> None:
    (tmp_path / "suspects.csv").write_text("name,phone\n", encoding="utf-8")
    code, _, error = call(capsys, "check", messy, "--out", tmp_path)
    assert (code, (tmp_path / "suspects.csv").read_text(encoding="utf-8")) == (2, "name,phone\n")
    assert "no column named path" in error

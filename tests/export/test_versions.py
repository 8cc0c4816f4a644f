"""Versions of runs and bundles count by themselves, and say what they follow."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from oodguard.cli.main import run as command
from oodguard.core.errors import FormatError, InputError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.export.bundle import export_bundle
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from oodguard.training.record import RECORD_FILE, load_record

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_bundle_counts_up_where_it_is_and_beside_it(run: Path, tmp_path: Path) -> None:
    first = export_bundle(run, tmp_path / "discs")
    assert (first.name, first.version, first.follows) == ("discs", "1", None)
    assert first.run is not None
    assert first.run.sha256 == file_sha256(run / RECORD_FILE)
    assert (first.run.name, first.run.version) == ("discs", "1")
    sha256 = file_sha256(tmp_path / "discs" / MANIFEST_FILE)
    with pytest.raises(InputError, match="is a bundle; choose another --out, or add --overwrite"):
        export_bundle(run, tmp_path / "discs")
    again = export_bundle(run, tmp_path / "discs", overwrite=True)
    assert again.version == "2"
    assert again.follows is not None
    assert (again.follows.version, again.follows.sha256) == ("1", sha256)
    beside = export_bundle(run, tmp_path / "newer")
    assert (beside.version, beside.follows) == ("3", None)
    assert export_bundle(run, tmp_path / "elsewhere", name="shoes").version == "1"
    assert load_manifest(tmp_path / "newer") == beside


def test_a_version_by_name_is_taken_as_it_is_and_followed_only_by_one_more(run: Path, tmp_path: Path) -> None:
    assert export_bundle(run, tmp_path / "discs", version="spring", overwrite=True).version == "spring"
    with pytest.raises(InputError, match=r"version spring is no whole number.*give --model-version"):
        export_bundle(run, tmp_path / "discs", overwrite=True)
    assert load_manifest(tmp_path / "discs").version == "spring"


@pytest.mark.parametrize(("flag", "value"), [("--name", "my photos"), ("--model-version", "1/2")])
def test_names_that_no_manifest_takes_are_refused_in_one_sentence(
    flag: str, value: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["export", str(run), "--out", str(tmp_path / "b"), flag, value]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said == (f"error: {flag} takes letters, digits, dots, hyphens and underscores, at most 64; got '{value}'")


@pytest.mark.parametrize(
    "words", [("export", "runs/photos", "--version", "2"), ("serve", "b", "--version=2"), ("key", "--version")]
)
def test_a_version_after_a_command_is_no_question_about_the_program(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(list(words)) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert "--model-version is a model's" in found.err
    assert command(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.2.0"


def test_a_run_follows_the_one_in_its_place_or_the_one_that_is_named(
    run: Path, options: TrainOptions, tmp_path: Path
) -> None:
    small = options.model_copy(update={"epochs": 1, "fine_tune": False, "check_folds": 0, "out_of_fold": 0})
    assert (load_record(run).name, load_record(run).version, load_record(run).parent) == ("discs", 1, None)
    shutil.copytree(run, tmp_path / "discs")
    sha256 = file_sha256(tmp_path / "discs" / RECORD_FILE)
    with pytest.raises(InputError, match="is a finished run; choose another --out, or add --overwrite"):
        train(small, tmp_path / "discs")
    second = train(small.model_copy(update={"overwrite": True}), tmp_path / "discs")
    assert second.version == 2
    assert second.parent is not None
    assert (second.parent.name, second.parent.version, second.parent.sha256) == ("discs", "1", sha256)
    third = train(small, tmp_path / "discs-winter", parent=tmp_path / "discs")
    assert (third.name, third.version) == ("discs", 3)
    assert third.parent is not None
    assert third.parent.sha256 == file_sha256(tmp_path / "discs" / RECORD_FILE)
    made = export_bundle(tmp_path / "discs-winter", tmp_path / "bundles" / "a")
    assert made.name == "discs"
    assert made.run is not None
    assert made.run.version == "3"
    with pytest.raises(FormatError, match="nowhere is not a finished run"):
        train(small, tmp_path / "none", parent=tmp_path / "nowhere")
    assert not (tmp_path / "none").exists()

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from oodguard.core.bank import BANK_FILE, Bank
from oodguard.core.manifest import MANIFEST_FILE, Manifest, load_manifest
from oodguard.server.card import checks_of
from tests.cli.terminal import call
from tests.conftest import draw

pytestmark = pytest.mark.usefixtures("one_thread")


def test_add_class_says_what_it_costs_and_what_passes(
    capsys: pytest.CaptureFixture[str], bundle: Path, photos: Path, tmp_path: Path
) -> None:
    slate = tmp_path / "slate"
    slate.mkdir()
    for index in range(20):
        draw((61, 107, 153), 9_000 + index).save(slate / f"{index:02d}.jpg", quality=90)
    shutil.copyfile(slate / "00.jpg", slate / "z.jpg")
    (slate / "torn.jpg").write_bytes(b"%PDF-1.7")
    code, out, _ = call(
        capsys,
        "add-class",
        bundle,
        "slate",
        slate,
        "--out",
        tmp_path / "next",
        "--data",
        photos,
        "--model-version",
        "9",
    )
    assert code == 0
    manifest = load_manifest(tmp_path / "next")
    for words in (
        "discs version 9, 4 classes; slate from 20 photos",
        "accuracy, old classes 45 ",
        "accepted, old classes 45 ",
        "accepted, slate 20 ",
        f"thresholds set anew on {manifest.calibration.samples} photos of the old classes that trained nothing",
        "gate: the graph answers as PyTorch does, image by image and in batches; scores within",
        "copies, left out: 1 z.jpg: the same file as 00.jpg",
        "could not be used: 1 torn.jpg: a PDF document",
        f"next: oodguard compare {bundle} {tmp_path / 'next'}",
    ):
        assert words in out, out
    assert re.search(r"accepted with it, slate 20 \d+\.\d", out)
    check = next(one for one in checks_of(manifest) if one.name == "Class slate")
    assert check.passed
    assert "thresholds were set since" in check.detail
    unmeasured = {**dict(manifest), "added": (manifest.added[0].model_copy(update={"calibrated": None}),)}
    unmeasured["recalibrations"] = ()
    check = next(one for one in checks_of(Manifest.model_validate(unmeasured)) if one.name == "Class slate")
    assert not check.passed
    assert "was not measured" in check.detail
    assert len(Bank.read(tmp_path / "next" / BANK_FILE)) == len(Bank.read(bundle / BANK_FILE)) + 20


def test_add_class_refuses_in_one_sentence_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], run: Path, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "next"
    code, _, error = call(capsys, "add-class", run, "slate", photos / "test" / "jade", "--out", out)
    assert (code, f"{run} is a run, and a class is added to a bundle; export it first" in error) == (2, True)
    code, _, error = call(capsys, "add-class", bundle, "jade", photos / "test" / "jade", "--out", out)
    assert (code, "knows jade already" in error) == (2, True)
    code, _, error = call(capsys, "add-class", bundle, "green", photos / "test" / "jade", "--out", out)
    assert (code, "are jade to the bundle, and lie among its photos" in error) == (2, True)
    code, _, error = call(
        capsys, "add-class", bundle, "slate", photos / "test" / "jade", "--out", out, "--model-version", "a b"
    )
    assert (code, "--model-version takes letters" in error) == (2, True)
    assert not out.exists()
    assert (bundle / MANIFEST_FILE).is_file()

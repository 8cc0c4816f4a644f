from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from tests.cli.terminal import call
from tests.clients.test_review import explained, put, sample
from tests.nearby import Nearby


def test_review_writes_a_page_and_says_what_is_on_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, parse_page: Callable[[str], Element]
) -> None:
    folder = tmp_path / "flagged"
    folder.mkdir()
    (folder / "torn.json").write_text("{")
    code, out, _ = call(capsys, "review", folder, "--out", tmp_path / "new" / "page.html")
    assert code == 0
    assert "0 shown, 1 could not be read" in out
    parse_page((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))


def test_review_writes_the_files_of_annotation_tools(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "flagged", "a", sample(9.0))
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "review", "flagged", "--format", "label-studio")
    assert (code, out) == (0, "label-studio.json and label-studio.xml: 1 exported, 0 could not be read")
    assert json.loads(Path("label-studio.json").read_text())[0]["data"]["image"] == "/data/local-files/?d=flagged/a.jpg"
    assert Path("label-studio.xml").read_text().startswith("<View>")
    code, out, _ = call(capsys, "review", "flagged", "--format", "coco", "--out", "new/c.json")
    assert (code, out) == (0, "new/c.json: 1 exported, 0 could not be read")
    assert len(json.loads(Path("new/c.json").read_text())["images"]) == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--format", "coco", "--image-prefix", "s3://b/"), "--image-prefix is for --format label-studio"),
        (("--format", "label-studio", "--out", "x.xml"), "choose another name"),
        (("--format", "voc"), "html"),
        (("--format", "coco", "--bundle", "b"), "--bundle is for --format html"),
        (("--bundle", "b"), "--bundle: b does not exist"),
        (("--format", "coco", "--limit", "0"), "--limit must be at least 1"),
        (("--open", "--format", "coco"), "--open takes no other options than --port, --bundle, --cache and --out"),
        (("--port", "0", "--apply", "m.csv"), "--open takes no other options"),
        (("--port", "70000"), "--port takes 0 to 65535"),
        (("--into", "photos"), "--into, --strangers and --dry-run are for --apply"),
        (("--apply", "m.csv"), "--apply needs --into"),
        (("--apply", "m.csv", "--into", "photos"), "m.csv cannot be read (No such file or directory)"),
        (("--apply", "m.csv", "--into", "photos", "--out", "known.csv"), "its name ends in .txt"),
    ],
)
def test_review_refuses_what_cannot_be_meant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: tuple[str, ...], sentence: str
) -> None:
    put(tmp_path / "flagged", "a", sample(9.0))
    code, _, error = call(capsys, "review", tmp_path / "flagged", *flags)
    assert code == 2
    assert sentence in error


def test_images_that_a_person_knows_become_a_list_to_recalibrate_with(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, name in enumerate(("27-a", "27-b", "28-a", "[x]")):
        put(tmp_path / "flagged", name, sample(9.0 + index))
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "review", "flagged", "--accept", "27-*", "--accept", "[x].jpg")
    assert code == 0
    assert out.startswith("known.txt: 3 images that are known next: oodguard recalibrate BUNDLE")
    # Absolute, so that the list may be read from anywhere.
    wanted = [tmp_path / "flagged" / f"{name}.jpg" for name in ("27-a", "27-b", "[x]")]
    assert Path("known.txt").read_text().splitlines() == list(map(str, wanted))
    code, _, error = call(capsys, "review", "flagged", "--accept", "29-a.jpg", "--out", "other.txt")
    assert code == 2
    assert "no sampled image in flagged is called 29-a.jpg" in error
    assert not Path("other.txt").exists()
    for flags, sentence in (
        (("--out", "known.csv"), "its name ends in .txt"),
        (("--format", "coco"), "--accept takes no other option"),
    ):
        code, _, error = call(capsys, "review", "flagged", "--accept", "27-a.jpg", *flags)
        assert (code, sentence in error) == (2, True)


def test_review_shows_the_training_photos_of_a_bundle(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, pictured: Path, nearby: Nearby
) -> None:
    photo = nearby.own[0]
    near = explained((photo.label, 0.25, photo.sha256))
    put(tmp_path / "flagged", "a", sample(9.0, explanation=near))
    code, _, _ = call(capsys, "review", tmp_path / "flagged", "--bundle", pictured, "--out", tmp_path / "r.html")
    assert code == 0
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count("<img ") == 2


def test_marks_are_applied_and_the_next_commands_are_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "bb", "ccc"):
        put(tmp_path / "flagged", name, sample(9.0))
    monkeypatch.chdir(tmp_path)
    marks = Path("flagged/marks.csv")
    marks.write_text("path;mark;class\na.jpg;known;plum\nbb.jpg;stranger;\n", encoding="utf-8-sig")
    asked = ("review", "flagged", "--apply", marks, "--into", "photos")
    code, out, _ = call(capsys, *asked, "--dry-run")
    assert (code, Path("photos").exists(), Path("known.txt").exists()) == (0, False, False)
    assert "2 marks: 1 known, 1 stranger, 0 new class, 0 bad picture" in out
    assert "2 images would be copied (dry run: nothing was written)" in out
    code, out, _ = call(capsys, *asked)
    assert code == 0
    assert "2 images copied, 0 were there already" in out
    assert "photos/plum: 1" in out
    assert "next: oodguard train --data photos --outliers photos-strangers --parent RUN --out NEW_RUN" in out
    assert "oodguard recalibrate BUNDLE --images TRUSTED --images known.txt" in out
    assert Path("known.txt").read_text() == f"{tmp_path / 'flagged' / 'a.jpg'}\n"
    marks.write_text("path,mark,class\nccc.jpg,known,melon\na.jpg,known,plum\n", encoding="utf-8")
    code, out, error = call(capsys, *asked)
    assert code == 2
    assert "0 images copied, 1 were there already" in out
    assert "1 of the marks could not be applied, the first: ccc.jpg" in error
    assert "has no class melon" in error


@pytest.mark.parametrize(("package", "flags"), [("uvicorn", ("--open",)), ("onnx", ("--port", "0", "--bundle", "b"))])
def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, package: str, flags: tuple[str, ...]) -> None:
    put(tmp_path / "flagged", "a", sample(9.0))
    code = (
        f"import sys; sys.modules[{package!r}] = None; from oodguard.cli.main import run; "
        f"sys.exit(run(['review', {str(tmp_path / 'flagged')!r}, *{flags!r}]))"
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("{}")
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert ran.returncode == 3, ran.stderr
    assert f"needs the package {package}; install oodguard with its extra review" in " ".join(ran.stderr.split())

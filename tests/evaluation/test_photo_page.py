from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from oodguard.evaluation import photo_page as pages
from oodguard.evaluation.photo_page import findings, photo_page
from oodguard.training.options import TrainOptions
from oodguard.training.photos.check import PhotoCheck, check_photos
from oodguard.training.photos.kinds import Kind
from tests.training.photos.test_check import make_messy


@pytest.fixture(scope="module")
def found(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> PhotoCheck:
    root = make_messy(tmp_path_factory.mktemp("page") / "photos")
    (root / "amber" / "00.png").rename(root / "amber" / "<b>.png")
    return check_photos(TrainOptions(data=root, cache=cache, image_size=64))


def test_the_page_shows_every_suspect_with_its_picture(found: PhotoCheck, parse_page: Callable[[str], Element]) -> None:
    text = photo_page(found, title="photos", commands="oodguard train")
    tree = parse_page(text)
    headings = [element.text for element in tree.iter("h2")]
    assert headings[1:] == [
        "Classes",
        "Labels that look wrong",
        "One picture in several classes",
        "Copies in a class",
        "Odd photos",
        "Files that cannot be read",
        "Files that training passes over",
    ]
    shown = found.of(*(kind for kinds, _ in pages.SECTIONS.values() for kind in kinds))
    beside = [one for one in shown if (one.path, one.kind) in found.beside]
    assert len(list(tree.iter("img"))) == len(shown) + len(beside)
    for one in found.suspects:
        assert one.path in text
    assert text == photo_page(found, title="photos", commands="oodguard train")


def test_a_long_list_is_cut_on_the_page_and_says_so(found: PhotoCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MOST", 1)
    text = photo_page(found, title="photos", commands="")
    count = len(found.of(Kind.LABEL))
    assert f"{count} photos, the first 1 of them" in text
    assert f"The list has {count - 1} more." in text


def test_each_finding_says_what_to_do(found: PhotoCheck) -> None:
    lines = [finding.text for finding in findings(found)]
    assert lines.pop(0) == (
        "98 photos are too few: --calibration-fraction 0.15 of them, after --test-fraction 0.2, must be 20 to "
        "calibrate thresholds, which takes 167 photos; add 69, or give --calibration-fraction 0.25, or give "
        "--cross-fit 5, which calibrates on all of them."
    )
    assert lines[0].endswith("look at them, the most suspect first.")
    assert lines[1:] == [
        "1 picture is in several classes: keep each in one of them.",
        "2 photos are copies of others in the same class (1 the same file, 1 encoded, sized or turned anew): "
        "one of each is enough.",
        "3 photos stand out by their light, sharpness or size.",
        "4 files cannot be read: fetch them again or remove them.",
        "1 photo is passed over by training, the first: plum/.unnamed.png (a hidden PNG file; rename it to use it).",
        "1 other file is passed over by training, the first: plum/notes.txt (text).",
    ]


def test_what_is_kept_is_no_finding_any_more(found: PhotoCheck) -> None:
    kept = replace(found, suspects=tuple(replace(one, keep="x") for one in found.suspects), passed=(), shortage="")
    assert [(line.tone, line.text[:14]) for line in findings(kept)] == [("good", "Nothing stands")]


def test_unequal_and_small_classes_are_said(found: PhotoCheck) -> None:
    uneven = replace(found, counts={"amber": 60, "jade": 3}, suspects=(), passed=(), shortage="")
    assert [line.text for line in findings(uneven)] == [
        "Too few photos to train on in jade: add some until each has 4 at least.",
        "amber has 20.0 times as many photos as jade (60 and 3): add photos of jade.",
    ]

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from oodguard.training.photos.labelled import find_photos
from oodguard.training.photos.passed_over import PassedOver, passed_over
from tests.conftest import COLOURS, draw

EXPECTED = (
    PassedOver("amber/.hidden.jpg", "a hidden JPEG file; rename it to use it", image=True),
    PassedOver("amber/001", "a JPEG file without a suffix; add .jpg to its name to use it", image=True),
    PassedOver("jade/001.jfif", "a JPEG file named .jfif; add .jpg to its name to use it", image=True),
    PassedOver("jade/notes.txt", "text", image=False),
)


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for label, colour in COLOURS.items():
        (root / label).mkdir(parents=True)
        draw(colour, 1).save(root / label / "001.jpg")
    for name in ("amber/001", "amber/.hidden.jpg", "jade/001.jfif"):
        shutil.copyfile(root / "amber" / "001.jpg", root / name)
    (root / "jade" / "notes.txt").write_text("todo")
    (root / ".DS_Store").write_bytes(b"x")
    (root / "jade" / "Thumbs.db").write_bytes(b"x")
    return root


def test_what_training_would_pass_over_is_named(messy: Path, tmp_path: Path) -> None:
    found = find_photos(messy, tmp_path / "cache")
    assert len(found.pool) == 3
    assert passed_over(messy, found) == EXPECTED


def test_a_photo_in_no_class_folder_is_named(messy: Path, tmp_path: Path) -> None:
    shutil.copyfile(messy / "amber" / "001.jpg", messy / "loose.jpg")
    names = {file.name: file.reason for file in passed_over(messy, find_photos(messy, tmp_path / "cache"))}
    assert names["loose.jpg"] == "in no class folder; move it into the folder of its class"


def test_an_archive_says_the_same(messy: Path, tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in sorted(messy.rglob("*")):
            if path.name != ".hidden.jpg":
                bundle.write(path, path.relative_to(messy))
    assert passed_over(archive, find_photos(archive, tmp_path / "cache")) == EXPECTED[1:]

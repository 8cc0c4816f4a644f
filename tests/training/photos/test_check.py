"""A set with known faults, made here: the check finds all of them, and little else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from oodguard.core.errors import InputError
from oodguard.training.options import TrainOptions
from oodguard.training.photos.check import PhotoCheck, check_photos
from oodguard.training.photos.kinds import Kind
from tests.conftest import COLOURS, draw

SIZES = {"amber": 40, "jade": 30, "plum": 20}
WRONG = {"jade/wrong-1.png": "amber", "plum/wrong-2.png": "jade"}


def make_messy(root: Path) -> Path:
    """Three classes of discs, and: two wrong labels, copies, files that are no photos, and odd photos."""
    for number, (label, colour) in enumerate(COLOURS.items()):
        (root / label).mkdir(parents=True)
        for index in range(SIZES[label]):
            draw(colour, 1000 * number + index).save(root / label / f"{index:02d}.png")
    for name, truth in WRONG.items():
        draw(COLOURS[truth], len(name) + 7000).save(root / name)
    shutil.copyfile(root / "amber/05.png", root / "amber/05 copy.png")
    shutil.copyfile(root / "jade/03.png", root / "plum/03 again.png")
    Image.open(root / "jade/09.png").resize((60, 60)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        root / "jade/09 mirrored.jpg", quality=90
    )
    (root / "amber/empty.jpg").write_bytes(b"")
    (root / "amber/page.jpg").write_text("<!DOCTYPE html><html>404</html>")
    (root / "plum/bill.jpg").write_bytes(b"%PDF-1.4\n")
    data = (root / "jade/01.png").read_bytes()
    (root / "jade/short.png").write_bytes(data[: len(data) // 3])
    (root / "plum/notes.txt").write_text("todo")
    shutil.copyfile(root / "plum/01.png", root / "plum/.unnamed.png")
    Image.new("RGB", (72, 72), "white").save(root / "amber/blank.png")
    draw(COLOURS["amber"], 8005).filter(ImageFilter.GaussianBlur(12)).save(root / "amber/blurred.png")
    draw(COLOURS["amber"], 8006).point(lambda v: v // 8).save(root / "amber/dark.png")
    return root


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_messy(tmp_path_factory.mktemp("messy") / "photos")


@pytest.fixture(scope="module")
def found(messy: Path, cache: Path) -> PhotoCheck:
    return check_photos(TrainOptions(data=messy, cache=cache, image_size=64))


def paths(found: PhotoCheck, *kinds: Kind) -> set[str]:
    return {one.path for one in found.of(*kinds)}


def test_files_that_are_no_photos_are_named_with_their_reason(found: PhotoCheck) -> None:
    assert {one.path: one.reason for one in found.of(Kind.UNREADABLE)} == {
        "amber/empty.jpg": "empty (0 bytes)",
        "amber/page.jpg": "an HTML page",
        "jade/short.png": "cut short: a PNG file without its end",
        "plum/bill.jpg": "a PDF document",
    }
    assert {one.path: one.reason for one in found.of(Kind.PASSED_OVER)} == {
        "plum/.unnamed.png": "a hidden PNG file; rename it to use it",
        "plum/notes.txt": "text",
    }


def test_copies_are_named_with_what_they_are_copies_of(found: PhotoCheck) -> None:
    assert {one.path: one.reason for one in found.of(Kind.COPY)} == {
        "amber/05 copy.png": "the same file as amber/05.png"
    }
    assert {one.path: one.reason for one in found.of(Kind.NEAR_COPY)} == {
        "jade/09 mirrored.jpg": "the same picture as jade/09.png, mirrored"
    }
    across = {one.path: (one.reason, one.suggested) for one in found.of(Kind.COPY_ACROSS)}
    assert across == {"plum/03 again.png": ("the same file as jade/03.png", "jade")}


def test_wrong_labels_and_the_copy_in_another_class_are_the_first_suspects(found: PhotoCheck) -> None:
    labels = found.of(Kind.LABEL)
    truth = {"plum/03 again.png": "jade", **WRONG}
    suggested = {one.path: one.suggested for one in labels[:4]}
    assert suggested.items() >= truth.items()
    assert labels[0].path == "plum/03 again.png"
    assert len(labels) <= 6
    assert all(0.5 <= one.score <= 1 for one in labels)
    assert [one.rank for one in labels] == list(range(1, len(labels) + 1))


def test_odd_photos_are_odd_among_their_set(found: PhotoCheck) -> None:
    assert paths(found, Kind.BLANK) == {"amber/blank.png"}
    assert paths(found, Kind.BLURRED) == {"amber/blurred.png"}
    assert paths(found, Kind.DARK) == {"amber/dark.png"}
    assert paths(found, Kind.BRIGHT, Kind.SIZE, Kind.SHAPE) == set()


def test_counts_are_those_of_readable_photos(found: PhotoCheck) -> None:
    assert found.counts == {"amber": 44, "jade": 32, "plum": 22}
    assert found.imbalance == 2.0
    assert found.small == ()


def test_a_test_folder_is_checked_too_and_its_copy_among_training_photos_is_a_leak(
    photos: Path, cache: Path, tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    shutil.copyfile(root / "test/jade/000.jpg", root / "train/jade/from test.jpg")
    found = check_photos(TrainOptions(data=root, cache=cache, image_size=64))
    assert {one.path: one.reason for one in found.of(Kind.COPY)} == {
        "train/jade/from test.jpg": "the same file as test/jade/000.jpg, a test photo"
    }


def test_a_class_too_small_to_train_on_is_said_and_not_refused(tmp_path: Path, cache: Path) -> None:
    for label, count in (("amber", 6), ("jade", 1)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(count):
            draw(COLOURS[label], 10 * count + index).save(tmp_path / "photos" / label / f"{index}.png")
    found = check_photos(TrainOptions(data=tmp_path / "photos", cache=cache, image_size=64))
    assert found.small == ("jade",)
    assert not found.asked_labels
    assert found.of(Kind.LABEL) == ()


def test_nothing_readable_is_one_sentence(tmp_path: Path, cache: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "x.jpg").write_text("<html>")
    with pytest.raises(InputError, match="none of the 2 photos"):
        check_photos(TrainOptions(data=tmp_path / "photos", cache=cache))

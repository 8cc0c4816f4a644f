from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from oodguard.core.errors import InputError
from oodguard.training.photos.labelled import find_photos, load_unlabelled
from oodguard.training.photos.passed_over import require_all_read
from oodguard.training.photos.photo import PassedOver
from tests.conftest import COLOURS, draw

MISSING = PassedOver("plum/gone.jpg", "a link to a file that is not there", image=True, unreadable=True)
EXPECTED = (
    PassedOver("amber/.hidden.jpg", "a hidden JPEG file; rename it to use it", image=True),
    MISSING,
    PassedOver("jade/notes.txt", "text", image=False),
)


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for label, colour in COLOURS.items():
        (root / label).mkdir(parents=True)
        draw(colour, 1).save(root / label / "001.jpg")
    for name in ("amber/001", "amber/.hidden.jpg", "jade/001.jfif", "jade/002.JPE", "plum/003.dat"):
        shutil.copyfile(root / "amber" / "001.jpg", root / name)
    frames = [draw(COLOURS["amber"], seed) for seed in (2, 3)]
    frames[0].save(root / "plum" / "004.mpo", save_all=True, append_images=frames[1:])
    (root / "plum" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "jade" / "notes.txt").write_text("todo")
    (root / ".DS_Store").write_bytes(b"x")
    (root / "jade" / "Thumbs.db").write_bytes(b"x")
    return root


def test_content_decides_and_what_training_passes_over_is_named(messy: Path, tmp_path: Path) -> None:
    found = find_photos(messy, tmp_path / "cache")
    names = [found.name(photo) for photo in found.pool]
    assert names == [
        *("amber/001", "amber/001.jpg", "jade/001.jfif", "jade/001.jpg", "jade/002.JPE"),
        *("plum/001.jpg", "plum/003.dat", "plum/004.mpo"),
    ]
    assert found.passed == EXPECTED


def test_a_text_that_begins_like_a_bitmap_is_none(messy: Path, tmp_path: Path) -> None:
    (messy / "amber" / "cars.txt").write_text("BMW and others")
    Image.new("RGB", (9, 9)).save(messy / "amber" / "bitmap", "BMP")
    found = find_photos(messy, tmp_path / "cache")
    assert PassedOver("amber/cars.txt", "text", image=False) in found.passed
    assert "amber/bitmap" in [found.name(photo) for photo in found.pool]


def test_a_photo_in_no_class_folder_is_named(messy: Path, tmp_path: Path) -> None:
    shutil.copyfile(messy / "amber" / "001.jpg", messy / "loose.jpg")
    names = {file.name: file.reason for file in find_photos(messy, tmp_path / "cache").passed}
    assert names["loose.jpg"] == "in no class folder; move it into the folder of its class"


def test_an_archive_says_the_same(messy: Path, tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in sorted(messy.rglob("*")):
            if path.exists() and path.name != ".hidden.jpg":
                bundle.write(path, path.relative_to(messy))
        bundle.writestr("__MACOSX/amber/._001.jpg", b"x")
    folder, zipped = (find_photos(source, tmp_path / "cache") for source in (messy, archive))
    assert zipped.fingerprint == folder.fingerprint
    assert zipped.passed == EXPECTED[2:]
    again = find_photos(archive, tmp_path / "cache")
    assert (again.fingerprint, again.passed) == (zipped.fingerprint, zipped.passed)


def test_photos_of_kinds_that_are_not_read_are_counted_and_may_refuse(messy: Path, tmp_path: Path) -> None:
    (messy / "jade" / "photo").write_bytes(b"8BPS" + bytes(64))
    found = find_photos(messy, tmp_path / "cache")
    reason = "a Photoshop file; export it as JPEG or PNG"
    assert PassedOver("jade/photo", reason, image=True, unreadable=True) in found.passed
    with pytest.raises(InputError, match=r"2 of 10 photos cannot be read; the first: jade/photo \(a Photoshop file"):
        require_all_read(found)


def test_a_class_folder_without_photos_says_what_is_in_it(messy: Path, tmp_path: Path) -> None:
    (messy / "teal").mkdir()
    for number in range(3):
        (messy / "teal" / f"{number}.psd").write_bytes(b"8BPS" + bytes(64))
    with pytest.raises(InputError, match=r"teal has no photos \(3 other files, the first teal/0.psd: a Photoshop file"):
        find_photos(messy, tmp_path / "cache")


def test_folders_without_photos_say_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    with pytest.raises(InputError, match=r"texts has no images \(JPEG, .*\) \(1 other file, the first a.txt: text\)"):
        load_unlabelled(tmp_path / "texts")


def test_neither_pipes_nor_links_in_circles_stop_the_search(messy: Path, tmp_path: Path) -> None:
    os.mkfifo(messy / "amber" / "pipe.jpg")
    (messy / "amber" / "circle").symlink_to(messy, target_is_directory=True)
    found = find_photos(messy, tmp_path / "cache")
    assert PassedOver("amber/pipe.jpg", "neither a file nor a folder", image=False) in found.passed
    assert len(found.pool) == 8


def test_a_damaged_archive_is_one_sentence(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(stream, "PNG")
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("a/1.png", stream.getvalue())
    data = bytearray(archive.read_bytes())
    data[60:80] = bytes(20)
    archive.write_bytes(data)
    with pytest.raises(InputError, match=r"photos.zip cannot be unpacked \(.*\); pack the photos again"):
        find_photos(archive, tmp_path / "cache")

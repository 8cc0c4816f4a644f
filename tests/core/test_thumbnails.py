from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodguard.core.errors import FormatError
from oodguard.core.thumbnails import MAX_BYTES, SIDE, Thumbnails, small_jpeg, write_thumbnails

A, B = "a" * 64, "b" * 64


def test_a_copy_is_small_and_says_nothing_about_its_camera() -> None:
    photo = Image.new("RGB", (400, 200), (10, 200, 30))
    photo.info = {"exif": b"Exif\0\0MM", "comment": b"taken at home", "icc_profile": b"x", "dpi": (300, 300)}
    data = small_jpeg(photo)
    with Image.open(io.BytesIO(data)) as small:
        assert small.size == (SIDE, SIDE // 2) == (96, 48)
        assert small.getexif() == {}
        assert {"comment", "icc_profile", "exif"}.isdisjoint(small.info)
        assert np.abs(np.asarray(small, dtype=int)[24, 48] - (10, 200, 30)).max() <= 3
    assert b"home" not in data
    with Image.open(io.BytesIO(small_jpeg(Image.new("RGB", (40, 20))))) as tiny:
        assert tiny.size == (40, 20)


def test_no_copy_comes_near_the_limit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    assert len(small_jpeg(Image.fromarray(noise))) < MAX_BYTES / 4


def test_the_same_copies_give_the_same_file(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        write_thumbnails(tmp_path / name, [(A, b"red"), (B, b"blue"), (A, b"red again")])
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    thumbnails = Thumbnails(tmp_path / "one.zip")
    assert [thumbnails.read(sha256) for sha256 in (A, B, "c" * 64, "../x")] == [b"red", b"blue", None, None]
    # A bundle that is replaced serves its own copies to its end.
    (tmp_path / "two.zip").replace(tmp_path / "one.zip")
    assert thumbnails.read(A) == b"red"
    thumbnails.close()


def test_what_oodguard_did_not_pack_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{A}.jpg", b"\0" * 1000)
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{A}.jpg", b"\0" * (MAX_BYTES + 1))
    for name in ("bomb.zip", "large.zip"):
        thumbnails = Thumbnails(tmp_path / name)
        assert thumbnails.read(A) is None
        thumbnails.close()
    (tmp_path / "text.zip").write_text("not an archive")
    for name in ("text.zip", "none.zip"):
        with pytest.raises(FormatError, match="holds no thumbnails"):
            Thumbnails(tmp_path / name)

"""Every form an image may have leads to the same pixels, and what is no image is refused by name."""

from __future__ import annotations

import io
import os
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest
from PIL import Image

from oodguard.core.errors import ImageError
from oodguard.core.images import listed, name_of, pixels_of, read_file
from oodguard.core.preprocessing import ImageLimits, Preprocessing, load_pixels

HOW = Preprocessing(resize=24, crop=20, mean=(0, 0, 0), std=(1, 1, 1))
SIDEWAYS = 6


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def png(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    return exif


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (Image.fromarray(noise(40, 60, 3)), {}),
        (Image.fromarray(noise(40, 60, 3)), {"exif": turned()}),
        (Image.fromarray(noise(40, 60)), {}),
        (Image.fromarray(noise(40, 60, 4), "RGBA"), {}),
        (Image.fromarray(noise(40, 60, 3)).quantize(16), {}),
        (Image.fromarray(noise(40, 60).astype(np.uint16) * 257), {}),
    ],
    ids=["rgb", "sideways", "grey", "rgba", "palette", "sixteen bit"],
)
def test_a_lossless_file_gives_the_same_pixels_in_every_form(
    tmp_path: Path, image: Image.Image, options: dict[str, object]
) -> None:
    data = png(image, **options)
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    expected = load_pixels(data, HOW)
    assert expected.shape == (20, 20, 3)
    for form in (str(path), path, data, Image.open(path)):
        assert np.array_equal(pixels_of(form, HOW), expected)
    if not options and image.mode in ("RGB", "L"):
        assert np.array_equal(pixels_of(np.asarray(image), HOW), expected)
        # Views, too: rows that do not follow each other in memory.
        assert np.array_equal(pixels_of(np.asarray(image)[::-1][::-1], HOW), expected)


@pytest.mark.parametrize(
    ("image", "code", "why"),
    [
        (b"", "empty", "0 bytes"),
        (b"junk", "unsupported_type", "not an image of a supported type"),
        (png(Image.fromarray(noise(9, 9, 3)))[:90], "cannot_decode", "damaged"),
        (noise(8, 8, 3).astype(np.float32), "unsupported_type", r"uint8 .*; got float32 \[8, 8, 3\]"),
        (noise(8, 8, 4), "unsupported_type", r"got uint8 \[8, 8, 4\]"),
        (noise(2, 8, 8, 3), "unsupported_type", r"got uint8 \[2, 8, 8, 3\]"),
        (noise(0, 8, 3), "unsupported_type", r"got uint8 \[0, 8, 3\]"),
        (None, "unsupported_type", "got NoneType"),
        (bytearray(b"junk"), "unsupported_type", "got bytearray"),
        ("absent.png", "not_found", "no such file"),
        ("http://example.com/a.png", "not_found", "nothing is fetched from a network"),
        ("a\0.png", "cannot_read", "cannot be read"),
        (".", "not_a_file", "not an ordinary file"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_code(image: object, code: str, why: str) -> None:
    with pytest.raises(ImageError, match=why) as caught:
        pixels_of(image, HOW)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_limits_hold_for_every_form(tmp_path: Path) -> None:
    image = Image.fromarray(noise(40, 60, 3))
    path = tmp_path / "photo.png"
    path.write_bytes(png(image))
    for form in (path, path.read_bytes(), image, np.asarray(image)):
        with pytest.raises(ImageError, match="60 x 40 pixels"):
            pixels_of(form, HOW, ImageLimits(max_pixels=2399))
        assert pixels_of(form, HOW, ImageLimits(max_pixels=2400)).shape == (20, 20, 3)
    size = path.stat().st_size
    assert read_file(path, max_bytes=size) == path.read_bytes()
    with pytest.raises(ImageError, match=f"{size:,} bytes") as caught:
        read_file(path, max_bytes=size - 1)
    assert caught.value.code == "too_many_bytes"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(ImageError, match="not an ordinary file"):
        read_file(tmp_path / "photo.jpg", max_bytes=100)


def test_threads_may_share_an_image_that_is_not_loaded_yet(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(noise(400, 400, 3)).save(path)
    expected = pixels_of(path, HOW)
    found: list[np.ndarray] = []
    for _ in range(5):
        shared, barrier = Image.open(path), Barrier(4)

        def use(shared: Image.Image = shared, barrier: Barrier = barrier) -> None:
            barrier.wait()
            found.append(pixels_of(shared, HOW))

        threads = [Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 20
    assert all(np.array_equal(pixels, expected) for pixels in found)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("a.png", 1),
        (Path("a.png"), 1),
        (b"bytes", 1),
        (bytearray(b"bytes"), 1),
        (io.BytesIO(b"a\nb"), 1),
        (Image.new("RGB", (4, 4)), 1),
        (noise(4, 4, 3), 1),
        (noise(4, 4), 1),
        (noise(5, 4, 4, 3), 5),
        (["a.png", b"b"], 2),
        ((Path("a.png"),), 1),
        ((name for name in ("a.png", "b.png")), 2),
        (None, 1),
        ([], 0),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_one_image_is_told_from_several(given: object, count: int) -> None:
    assert len(listed(given)) == count  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("some/a.png", "a.png"),
        (Path("b.png"), "b.png"),
        (Path("caf\udce9.png"), r"caf\xe9.png"),
        (b"", None),
        (noise(2, 2), None),
    ],
)
def test_only_files_have_names(image: object, name: str | None) -> None:
    assert name_of(image) == name  # type: ignore[arg-type]

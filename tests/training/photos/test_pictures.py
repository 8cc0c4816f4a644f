from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from oodguard.core.quality import traits_of
from oodguard.training.photos.labelled import Photo
from oodguard.training.photos.pictures import SIDE, look


def put(folder: Path, name: str, image: Image.Image, **options: object) -> Photo:
    path = folder / name
    image.save(path, **options)
    return Photo(path=path, label="any", sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def scene(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    """Blocks of random grey, with fine noise: coarse and fine structure."""
    rng = np.random.default_rng(seed)
    blocks = Image.fromarray(rng.integers(30, 226, (6, 8), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.normal(0, 12, (size[1], size[0]))
    return Image.fromarray(np.clip(np.asarray(blocks) + noise, 0, 255).astype(np.uint8)).convert("RGB")


def test_numbers_are_those_of_the_photo(tmp_path: Path) -> None:
    grey = put(tmp_path, "grey.png", Image.new("RGB", (300, 100), (102, 102, 102)))
    half = Image.new("RGB", (100, 100))
    half.paste((255, 255, 255), (0, 0, 50, 100))
    found = look([grey, put(tmp_path, "half.png", half)], tmp_path / "cache")
    assert found.pictures.sizes.tolist() == [[300, 100], [100, 100]]
    np.testing.assert_allclose(found.pictures.darkness, [0.6, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.pictures.overexposure, [0.0, 0.5], atol=0.02)
    np.testing.assert_allclose(found.pictures.contrast, [0, 0.5], atol=1e-6)
    assert found.pictures.copies.shape == (2, SIDE, SIDE)
    assert found.unreadable == {}


def test_the_size_is_that_of_the_photo_as_it_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = put(tmp_path, "turned.jpg", scene(0, (1600, 1200)), exif=exif)
    assert look([turned], tmp_path / "cache").pictures.sizes.tolist() == [[1200, 1600]]


def test_blur_grows_with_the_radius_and_is_that_of_answers(tmp_path: Path) -> None:
    images = [scene(1).filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 1, 2, 4)]
    found = look([put(tmp_path, f"{n}.png", image) for n, image in enumerate(images)], tmp_path / "cache").pictures.blur
    np.testing.assert_allclose(found, [traits_of(np.asarray(image)).blur for image in images], atol=1e-6)
    assert found.tolist() == sorted(found)
    assert found[0] < 0.4
    assert found[-1] > 0.8


def test_a_photo_of_a_few_pixels_is_measured(tmp_path: Path) -> None:
    tiny = [put(tmp_path, f"{side}.png", Image.new("RGB", (side, 1), (9, 9, 9))) for side in (1, 3, 5)]
    assert look(tiny, tmp_path / "cache").pictures.blur.tolist() == [1.0, 1.0, 1.0]


def test_a_photo_is_measured_once(tmp_path: Path) -> None:
    photos = [put(tmp_path, f"{seed}.png", scene(seed)) for seed in range(3)]
    first = look(photos, tmp_path / "cache")
    for photo in photos:
        photo.path.unlink()
    steps: list[tuple[int, int]] = []
    again = look(photos, tmp_path / "cache", progress=lambda done, total: steps.append((done, total)))
    assert steps == []
    np.testing.assert_array_equal(again.pictures.copies, first.pictures.copies)
    np.testing.assert_array_equal(again.pictures.blur, first.pictures.blur)


def test_a_damaged_cache_is_measured_again(tmp_path: Path) -> None:
    photo = put(tmp_path, "a.png", scene(0))
    first = look([photo], tmp_path / "cache")
    for path in (tmp_path / "cache" / "pictures").rglob("*.npz"):
        path.write_bytes(b"torn")
    np.testing.assert_array_equal(look([photo], tmp_path / "cache").pictures.blur, first.pictures.blur)


@pytest.mark.parametrize("name", ["page.jpg", "gone.jpg"])
def test_what_cannot_be_read_has_a_reason(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("<html>")
    photo = Photo(path=path, label="any", sha256="0" * 64)
    if name == "gone.jpg":
        path.unlink()
    found = look([photo, put(tmp_path, "a.png", scene(0))], tmp_path / "cache")
    reasons = {"page.jpg": "an HTML page", "gone.jpg": "the file cannot be read (No such file or directory)"}
    assert found.unreadable == {photo: reasons[name]}
    assert len(found.photos) == 1

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from oodguard.training.photos.copies import CopyGroup, copy_groups, same_files
from oodguard.training.photos.labelled import Photo
from oodguard.training.photos.pictures import SIDE, TINY
from tests.training.photos.test_pictures import scene

T = Image.Transpose


def encoded(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream)


ALTERED: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "encoded": (encoded, "the same picture as {}"),
    "small": (lambda i: i.resize((50, 40)), "the same picture as {}"),
    "squashed": (lambda i: i.resize((200, 90)), "the same picture as {}"),
    "grey": (ImageOps.grayscale, "the same picture as {}"),
    "mirrored": (lambda i: i.transpose(T.FLIP_LEFT_RIGHT), "the same picture as {}, mirrored"),
    "upside down": (lambda i: i.transpose(T.ROTATE_180), "the same picture as {}, upside down"),
    "flipped": (lambda i: i.transpose(T.FLIP_TOP_BOTTOM), "the same picture as {}, mirrored upside down"),
    "left": (lambda i: i.transpose(T.ROTATE_90), "the same picture as {}, turned"),
    "right": (lambda i: i.transpose(T.ROTATE_270), "the same picture as {}, turned"),
    "transposed": (lambda i: i.transpose(T.TRANSPOSE), "the same picture as {}, mirrored and turned"),
    "transverse": (lambda i: i.transpose(T.TRANSVERSE), "the same picture as {}, mirrored and turned"),
}


def groups(images: list[Image.Image], shas: list[str] | None = None) -> list[CopyGroup]:
    photos = [Photo(Path(f"{i}.png"), "any", sha) for i, sha in enumerate(shas or map(str, range(len(images))))]
    small = [np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for image in images]
    colours = [np.asarray(i.convert("RGB").convert("YCbCr").resize((TINY, TINY)))[:, :, 1:] for i in images]
    return copy_groups(photos, np.stack(small), np.stack(colours), order=range(len(photos)))


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_copy_is_found_and_nothing_else(name: str) -> None:
    alter, how = ALTERED[name]
    images = [scene(seed) for seed in range(30)]
    found = groups([*images, alter(images[7])])
    assert [group.rows for group in found] == [(7, 30)]
    assert found[0].copies[0].how == how
    assert found[0].copies[0].likeness > 0.95


def test_the_same_file_is_a_copy_whatever_is_on_it() -> None:
    plain = Image.new("RGB", (40, 40), "white")
    found = groups([plain, scene(1), plain, plain], ["a", "b", "a", "c"])
    assert [(group.rows, group.copies[0].how) for group in found] == [((0, 2), "the same file as {}")]
    photos = [Photo(Path(name), "any", name[0]) for name in ("a1", "b", "a2")]
    assert same_files(photos).tolist() == [0, 1, 0]


def test_different_pictures_in_the_same_frame_are_no_copies() -> None:
    def framed(seed: int) -> Image.Image:
        picture = scene(seed, (120, 120)).point(lambda v: 120 + v // 4)
        return ImageOps.expand(picture, 12, "black")

    assert groups([framed(seed) for seed in range(12)]) == []


def test_one_cut_in_two_colours_is_no_copy_and_its_grey_photo_is() -> None:
    def tinted(image: Image.Image, colour: str) -> Image.Image:
        return ImageOps.colorize(ImageOps.grayscale(image), "black", "white", mid=colour)

    others = [tinted(scene(seed), "brown") for seed in range(20)]
    red, blue = tinted(scene(50), "firebrick"), tinted(scene(50), "royalblue")
    assert groups([*others, red, blue]) == []
    assert [group.rows for group in groups([*others, red, ImageOps.grayscale(red)])] == [(20, 21)]
    assert [group.rows for group in groups([*others, red, encoded(red)])] == [(20, 21)]


def test_in_a_set_of_alike_forms_only_closer_ones_are_copies() -> None:
    """All forms correlate by more than 0.95, which would be a copy among photos of shops."""
    form = np.asarray(scene(0).convert("L"), dtype=np.float64)
    rng = np.random.default_rng(1)
    forms = [
        Image.fromarray(np.clip(form + np.kron(rng.normal(0, 9, (30, 40)), np.ones((5, 5))), 0, 255).astype(np.uint8))
        for _ in range(20)
    ]
    found = groups([*forms, encoded(forms[3])])
    assert [group.rows for group in found] == [(3, 20)]


def test_copies_of_copies_are_one_group_whose_first_is_kept() -> None:
    image = scene(5)
    others = [scene(seed) for seed in range(20, 40)]
    found = groups([encoded(image), *others, image.transpose(T.ROTATE_90), image])
    assert [group.rows for group in found] == [(0, 21, 22)]
    assert found[0].kept == 0

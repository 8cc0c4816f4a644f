from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from oodguard.core.grey_levels import FEW, MOST_IMAGES, few_grey_levels
from oodguard.core.preprocessing import DEFAULT_LIMITS


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_a_set_of_few_levels_is_described_and_one_more_level_makes_it_usual() -> None:
    dark = [png(np.full((4, 4), number % (FEW - 1) + 3)) for number in range(2 * FEW)]
    found = few_grey_levels(dark, DEFAULT_LIMITS)
    assert found is not None
    assert (found.images, found.levels, found.lowest, found.highest) == (64, 31, 3, 33)
    assert found.sentence.startswith("64 images looked at have 31 grey levels together, from 3 to 33 of 0 to 255:")
    assert few_grey_levels([*dark, png(np.full((4, 4), 200))], DEFAULT_LIMITS) is None


def test_looks_no_further_than_it_must_and_passes_over_what_is_no_image() -> None:
    read: list[int] = []

    def images(values: np.ndarray) -> Iterator[bytes]:
        for number in range(1000):
            read.append(number)
            yield b"" if number % 2 == 0 else png(values)

    assert few_grey_levels(images(np.arange(256).reshape(16, 16)), DEFAULT_LIMITS) is None
    assert len(read) == 2
    read.clear()
    found = few_grey_levels(images(np.full((2, 2), 7)), DEFAULT_LIMITS)
    assert found is not None
    assert (found.images, found.levels) == (MOST_IMAGES // 2, 1)
    assert len(read) == MOST_IMAGES


def test_three_images_say_nothing_of_a_set() -> None:
    assert few_grey_levels([png(np.zeros((2, 2)))] * 3, DEFAULT_LIMITS) is None
    assert few_grey_levels([], DEFAULT_LIMITS) is None

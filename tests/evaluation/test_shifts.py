from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from oodguard.evaluation.shifts import (
    BLACK,
    SHIFTS,
    WHITE,
    banded,
    blurred,
    exposed,
    framed,
    grey,
    lamplit,
    on_its_side,
    recompressed,
    thumbnail,
    tiled,
)


def flat(width: int, height: int, colour: tuple[int, int, int] = (200, 100, 40)) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    rng = np.random.default_rng(4)
    return Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((160, 120))


@pytest.mark.parametrize(
    ("size", "framed_size", "box"),
    [
        ((90, 120), (214, 120), (62, 0, 152, 120)),  # upright: bars at both sides
        ((320, 90), (320, 180), (0, 45, 320, 135)),  # a panorama: above and below
        ((160, 90), (160, 90), (0, 0, 160, 90)),
        ((100, 100), (178, 100), (39, 0, 139, 100)),
    ],
)
def test_a_frame_holds_the_whole_photo(
    size: tuple[int, int], framed_size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    found = framed(flat(*size), (16, 9), WHITE)
    assert found.size == framed_size
    expected = Image.new("RGB", framed_size, (255, 255, 255))
    expected.paste((200, 100, 40), box)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_bands_make_a_wide_cut_square() -> None:
    found = np.asarray(banded(flat(160, 160)))
    assert found.shape == (160, 160, 3)
    assert (found[:35] == 0).all()
    assert (found[-35:] == 0).all()
    assert (found[35:-35] == (200, 100, 40)).all()
    assert banded(flat(320, 160)).size == (284, 284)


def test_a_tile_is_white_and_three_quarters_full() -> None:
    found = np.asarray(tiled(flat(90, 60)))
    assert found.shape == (120, 120, 3)
    inside = (found == (200, 100, 40)).all(-1)
    assert inside.sum() == 90 * 60
    assert (found[~inside] == 255).all()
    assert inside[30:90, 15:105].all()


def test_a_thumbnail_keeps_its_shape_and_small_photos_stay(photo: Image.Image) -> None:
    assert thumbnail(photo).size == (96, 72)
    assert thumbnail(flat(50, 80)).size == (50, 80)
    assert photo.size == (160, 120)


def test_light_and_colour() -> None:
    assert exposed(flat(4, 4), 0.5).getpixel((0, 0)) == (100, 50, 20)
    assert exposed(flat(4, 4), 1.5).getpixel((0, 0)) == (255, 150, 60)
    assert lamplit(flat(4, 4)).getpixel((0, 0)) == (240, 100, 28)
    assert lamplit(flat(4, 4, (250, 0, 5))).getpixel((0, 0)) == (255, 0, 4)
    assert grey(flat(4, 4)).getpixel((0, 0)) == (123, 123, 123)  # .299 R + .587 G + .114 B


def test_a_quarter_turn_and_a_blur_and_jpeg(photo: Image.Image) -> None:
    before = np.asarray(photo).astype(float)
    np.testing.assert_array_equal(np.asarray(on_its_side(photo)), np.rot90(before))
    for change, low, high in ((blurred, 1.0, 20.0), (recompressed, 1.0, 20.0)):
        after = np.asarray(change(photo)).astype(float)
        assert low < np.abs(after - before).mean() < high
        assert abs(after.mean() - before.mean()) < 2
    assert np.asarray(blurred(photo)).std() < before.std()
    np.testing.assert_array_equal(np.asarray(blurred(flat(30, 30))), np.asarray(flat(30, 30)))


def test_every_shift_is_pure_and_deterministic_on_any_size(photo: Image.Image) -> None:
    assert len({shift.name for shift in SHIFTS}) == len(SHIFTS) == 12
    for shift in SHIFTS:
        for image in (photo, flat(1, 1), flat(300, 1), flat(2, 500)):
            before = image.tobytes()
            first, second = shift(image), shift(image)
            assert first.mode == "RGB"
            assert first.tobytes() == second.tobytes()
            assert image.tobytes() == before
            assert shift.name == "on its side" or image is not photo or first.tobytes() != before


def test_black_is_black() -> None:
    assert framed(flat(90, 120), (16, 9), BLACK).getpixel((0, 0)) == (0, 0, 0)

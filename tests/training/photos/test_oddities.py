from __future__ import annotations

import numpy as np

from oodguard.training.photos.kinds import Kind
from oodguard.training.photos.oddities import oddities
from oodguard.training.photos.pictures import SIDE, TINY, Pictures


def pictures(count: int = 40, **changed: dict[int, object]) -> Pictures:
    """Photos as a camera takes them, with some numbers of some rows changed."""
    rng = np.random.default_rng(0)
    columns = {
        "sizes": np.tile(np.array([[1600.0, 1200.0]], dtype=np.float32), (count, 1)),
        "contrast": rng.uniform(0.1, 0.3, count).astype(np.float32),
        "darkness": rng.uniform(0.1, 0.2, count).astype(np.float32),
        "overexposure": rng.uniform(0.0, 0.02, count).astype(np.float32),
        "blur": rng.uniform(0.6, 0.7, count).astype(np.float32),
    }
    for name, rows in changed.items():
        for row, value in rows.items():
            columns[name][row] = value
    return Pictures(
        **columns, copies=np.zeros((count, SIDE, SIDE), np.uint8), colours=np.zeros((count, TINY, TINY, 2), np.uint8)
    )


def found(measured: Pictures) -> list[tuple[Kind, int]]:
    return [(one.kind, one.row) for one in oddities(measured)]


def test_each_kind_of_odd_photo_is_found() -> None:
    measured = pictures(
        darkness={1: 0.9, 9: 0.59},
        overexposure={2: 0.95, 10: 0.49},
        blur={3: 0.99, 4: 0.97},
        sizes={5: (160, 120), 6: (4800, 600), 7: (600, 4800)},
        contrast={8: 0.0},
    )
    assert found(measured) == [
        (Kind.BLANK, 8),
        (Kind.SIZE, 5),
        (Kind.SHAPE, 6),
        (Kind.SHAPE, 7),
        (Kind.DARK, 1),
        (Kind.BRIGHT, 2),
        (Kind.BLURRED, 3),
        (Kind.BLURRED, 4),
    ]
    reasons = {one.row: one.reason for one in oddities(measured)}
    assert reasons[5] == "160 x 120 pixels; half of the photos have 1600 x 1200 or more"
    assert reasons[1] == "19 in 20 pixels have less than 10 % of white"
    assert reasons[2] == "95 % of it is clipped at white"


def test_a_set_of_dark_photos_has_no_odd_ones() -> None:
    rng = np.random.default_rng(1)
    dark = dict(enumerate(rng.uniform(0.7, 0.9, 40)))
    assert found(pictures(darkness=dark)) == []


def test_photos_on_their_side_and_somewhat_smaller_ones_are_not_odd() -> None:
    assert found(pictures(sizes={1: (1200, 1600), 2: (1200, 900), 3: (1600, 900)})) == []


def test_no_photos_no_oddities() -> None:
    assert found(pictures(0)) == []

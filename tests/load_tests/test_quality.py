from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import oodguard
from oodguard.core.errors import InputError
from oodguard.load_tests.quality import CHANGES, changed, cost, exposed, moved, percent, photos_in, row_of, shrunk


def test_pictures_are_spoilt_as_their_names_say() -> None:
    half = Image.new("RGB", (60, 40), (128, 128, 128))
    # Two stops less of linear light.
    assert np.asarray(exposed(-2)(half))[0, 0, 0] == round(128 * 0.25 ** (1 / 2.2))
    assert np.asarray(exposed(3)(half)).min() == 255
    edge = np.zeros((4, 20, 3), dtype=np.uint8)
    edge[:, 10:] = 250
    assert np.asarray(moved(5)(Image.fromarray(edge)))[0, 8:16, 0].tolist() == [0, 0, 50, 100, 150, 200, 250, 250]
    assert shrunk(20)(half).size == (30, 20)
    assert (percent(1, 8), percent(0, 0)) == ("12.5 %", "-")


def test_photos_are_spread_over_a_folder(photos: Path, tmp_path: Path) -> None:
    found = photos_in(photos / "test", 3)
    assert [path.parent.name for path in found] == ["amber", "jade", "plum"]
    with pytest.raises(InputError, match="has no photos; name another folder"):
        photos_in(tmp_path, 3)


def test_blurred_photos_have_a_reason_and_their_share_of_the_time_is_small(bundle: Path, photos: Path) -> None:
    paths = photos_in(photos / "test", 9)
    with oodguard.load(bundle, sessions=1, threads=1) as guard:
        plain = row_of(guard, changed(paths, CHANGES["as they are"]))
        blurred = row_of(guard, changed(paths, CHANGES["blurred, sigma 4"]))
        scale = guard.manifest.calibration.quality
        assert scale is not None
        taken, _, share = cost(guard, scale, paths[0].read_bytes())
    assert (plain[0], plain[4], plain[5]) == ("9", "0.0 %", "")
    assert (blurred[4], blurred[5]) == ("100.0 %", "blurred")
    assert taken.endswith(" µs")
    assert 0 < float(share.removesuffix(" %")) < 100

"""What is left open by what was said."""

from __future__ import annotations

from typing import Any

import pytest

from oodguard.core.errors import InputError
from oodguard.wrapping.conventions import VALUES, conventions, require_decided
from oodguard.wrapping.stated import Stated


def found(dtype: Any = "float32", size: Any = (64, 64), **fields: Any) -> Any:
    return conventions(Stated(fields, ("the options",)), size=size, dtype=dtype)


def names(group: Any) -> list[str]:
    return [one.name for one in group]


def test_nothing_said_leaves_the_handful_open() -> None:
    left = found()
    assert len(left.values) == len(VALUES) == 9
    assert names(left.fits) == ["crop of 0.875", "crop", "squash", "pad"]
    assert left.decided is None
    how = left.preprocessing(left.values[0], left.fits[0])
    assert (how.resize, how.crop, how.fit, how.interpolation, how.reduced_jpeg) == (73, 64, "crop", "bilinear", True)
    assert names(left.first_fits) == ["crop", "squash"]
    assert names(found(fit="pad").first_fits) == ["pad"]


def test_each_thing_said_closes_what_it_is_about() -> None:
    assert {one.fields["channels"] for one in found(channels="bgr").values} == {"bgr"}
    assert names(found(fit="squash").fits) == ["squash"]
    assert names(found(fit="crop").fits) == ["crop of 0.875", "crop"]
    assert names(found(resize=80).fits) == ["crop, resized to 80"]
    half = found(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert names(half.values) == ["RGB, as stated", "BGR, as stated"]
    assert half.values[1].fields["scale"] == 255.0
    assert found(interpolation="nearest", fill=(9, 9, 9)).known["fill"] == (9, 9, 9)


def test_all_said_is_decided() -> None:
    left = found(fit="squash", channels="rgb", scale=1.0)
    how = left.decided
    assert how is not None
    assert (how.fit, how.resize, how.scale, how.mean, how.std) == ("squash", 64, 1.0, (0, 0, 0), (1, 1, 1))
    assert require_decided(left) == how


def test_sizes_come_from_the_input_or_from_the_caller() -> None:
    assert found(size=(48, 64)).known["width"] == 64
    assert found(size=(None, None), crop=32).known["crop"] == 32
    assert found(size=(None, None), crop=32, width=40).known["width"] == 40
    with pytest.raises(InputError, match="takes images of any size; give --crop"):
        found(size=(None, None))


def test_a_network_of_bytes_leaves_the_order_of_channels_open() -> None:
    left = found("uint8", scale=1.0)
    assert names(left.values) == ["RGB, as they are", "BGR, as they are"]
    with pytest.raises(InputError, match="takes uint8"):
        found("uint8", mean=(0.5, 0.5, 0.5))


def test_without_labels_the_flags_are_named() -> None:
    with pytest.raises(InputError, match=r"of 9 ways to turn .* and of 4 ways to fit .* give --preprocessing FILE"):
        require_decided(found())
    with pytest.raises(InputError, match=r"this preprocessing cannot be used: std: .*no std may be 0"):
        require_decided(found(fit="pad", channels="rgb", std=(0.0, 1.0, 1.0)))

from __future__ import annotations

import pytest

from oodguard.server.admission import Admission
from oodguard.server.errors import Overloaded


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_room_is_bounded_in_images_and_in_bytes_and_given_back() -> None:
    admission = Admission(max_images=10, max_bytes=1000)
    with admission.enter() as first:
        first.grow(images=9, body_bytes=600)
        with admission.enter() as second, pytest.raises(Overloaded):
            second.grow(images=2)
        with admission.enter() as second:
            with pytest.raises(Overloaded):
                second.grow(body_bytes=401)
            second.grow(images=1, body_bytes=400)
            with pytest.raises(Overloaded), admission.enter():
                pass
        assert (admission.images, admission.bytes) == (9, 600)
    assert (admission.images, admission.bytes) == (0, 0)


def test_an_error_gives_the_room_back() -> None:
    admission = Admission(max_images=10, max_bytes=1000)

    def fail() -> None:
        with admission.enter() as reservation:
            reservation.grow(images=5)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert admission.images == 0


def test_retry_after_is_the_queue_over_the_recent_rate() -> None:
    clock = Clock()
    admission = Admission(max_images=1000, max_bytes=1000, clock=clock)
    assert admission.retry_after == 1
    for _ in range(600):
        clock.now += 0.1
        admission.answered(2)
    assert admission.rate == pytest.approx(20, rel=0.02)
    with admission.enter() as reservation:
        reservation.grow(images=110)
        assert admission.retry_after == 6
        reservation.grow(images=890)
        assert admission.retry_after == 50
        with pytest.raises(Overloaded) as caught:
            reservation.grow(images=1)
        assert caught.value.retry_after == 50
        clock.now += 60
        assert admission.retry_after == 60

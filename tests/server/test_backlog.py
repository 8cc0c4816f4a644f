from __future__ import annotations

from oodguard.server.backlog import Backlog


def test_images_and_bytes_are_bounded() -> None:
    backlog = Backlog(images=3, size=100)
    assert [backlog.enter(40) for _ in range(3)] == [True, True, False]
    assert backlog.enter(20)
    assert not backlog.enter(0)
    backlog.leave(40)
    assert backlog.enter(40)


def test_one_image_is_let_in_however_large_it_is() -> None:
    backlog = Backlog(images=3, size=100)
    assert backlog.enter(1000)
    assert not backlog.enter(1)
    backlog.leave(1000)
    assert backlog.enter(1)

"""How many images and bytes may be inside the server at once, and when a refused caller should try again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from oodguard.core.codes import Code
from oodguard.server.errors import Overloaded, RequestError

RATE_MEMORY = 5.0
LONGEST_WAIT = 60


class Admission:
    """The one bound on work, shared by every route.

    An image counts from the end of its request's body until it is answered, so the bound holds for images that wait,
    are being decoded, or run; while a body arrives only its bytes count, so that slow senders take no place.
    `retry_after` is the time that the images inside will take at the rate of the last seconds.
    """

    def __init__(self, *, max_images: int, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_images = max_images
        self.max_bytes = max_bytes
        self.images = 0
        self.bytes = 0
        self._clock = clock
        self._rate = 0.0
        self._since = clock()

    @contextmanager
    def enter(self) -> Iterator[Reservation]:
        """A reservation to grow, given back at the end.

        Raises `Overloaded` when not one image more would fit, before any of the body is read.
        """
        reservation = Reservation(self)
        reservation.require(images=1)
        try:
            yield reservation
        finally:
            reservation.release()

    def answered(self, images: int) -> None:
        """Count `images` that left with an answer."""
        self._decay()
        self._rate += images / RATE_MEMORY

    @property
    def rate(self) -> float:
        """Images per second, averaged over about five seconds."""
        self._decay()
        return self._rate

    @property
    def retry_after(self) -> int:
        """Whole seconds until what is inside now is likely to be answered: at least 1, at most 60."""
        rate = self.rate
        return min(LONGEST_WAIT, max(1, math.ceil(self.images / rate))) if rate > 0 else 1

    def _decay(self) -> None:
        now = self._clock()
        self._rate *= math.exp((self._since - now) / RATE_MEMORY)
        self._since = now


class Reservation:
    """Images and bytes held by one request."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.images = 0
        self.bytes = 0

    def grow(self, *, images: int = 0, body_bytes: int = 0) -> None:
        """Hold more. Raises `Overloaded`, and holds what it held, when there is no room."""
        self.require(images=images, body_bytes=body_bytes)
        self._admission.images += images
        self._admission.bytes += body_bytes
        self.images += images
        self.bytes += body_bytes

    def hold(self, images: int, *, most: int) -> None:
        """Hold the images of a request. Raises `RequestError` for none or more than `most`, `Overloaded` as `grow`."""
        if not images:
            raise RequestError(Code.NO_IMAGES, "the request holds no image; send at least one file")
        if images > most:
            raise RequestError(Code.TOO_MANY_FILES, f"the request holds more than {most} images")
        self.grow(images=images)

    def require(self, *, images: int = 0, body_bytes: int = 0) -> None:
        """Raise `Overloaded` unless so much more would fit."""
        inside = self._admission
        if inside.images + images > inside.max_images or inside.bytes + body_bytes > inside.max_bytes:
            raise Overloaded(
                f"the server is full ({inside.images} of {inside.max_images} images inside); try again later",
                retry_after=inside.retry_after,
            )

    def release(self) -> None:
        """Give everything back."""
        self._admission.images -= self.images
        self._admission.bytes -= self.bytes
        self.images = self.bytes = 0

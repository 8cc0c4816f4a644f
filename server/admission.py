"""How many images and bytes may be inside the server at once, whose, and when a refused caller should try again."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from oodguard.core.codes import Code
from oodguard.server.errors import Overloaded, RequestError
from oodguard.server.turns import Weights

RATE_MEMORY = 5.0
LONGEST_WAIT = 60


class Admission:
    """The one bound on work, shared by every route.

    An image counts from the end of its request's body until it is answered, so the bound holds for images that wait,
    are being decoded, or run; while a body arrives only its bytes count, so that slow senders take no place.
    `retry_after` is the time that the images inside will take at the rate of the last seconds.

    A caller alone may fill the server, but for `max_of_one` images. Where it is full, a caller who holds less than its
    share takes the place of the newest request of the one that is furthest above its own; shares are by weight, over
    the callers that hold something.
    """

    def __init__(
        self,
        *,
        max_images: int,
        max_bytes: int,
        max_of_one: int | None = None,
        weights: Weights | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_images = max_images
        self.max_bytes = max_bytes
        self.max_of_one = max_of_one or max_images
        self.images = 0
        self.bytes = 0
        self._weights = weights or Weights()
        # By caller, oldest first.
        self._inside: dict[str, dict[Reservation, None]] = {}
        self._clock = clock
        self._rate = 0.0
        self._since = clock()

    @contextmanager
    def enter(self, caller: str = "", *, task: asyncio.Task[object] | None = None) -> Iterator[Reservation]:
        """A reservation of a caller to grow, given back at the end; `task` is cancelled where it has to make room.

        Raises `Overloaded` when not one image more would fit, before any of the body is read, and later where it had
        to make room.
        """
        reservation = Reservation(self, caller, task)
        mine = self._inside.setdefault(caller, {})
        mine[reservation] = None
        try:
            if not self.has_room(reservation, images=1):
                reservation.require(images=1, now=False)
            yield reservation
        except asyncio.CancelledError:
            if task is None or not reservation.displaced:
                raise
            task.uncancel()
            raise self.overloaded("another caller's turn came") from None
        finally:
            reservation.release()
            del mine[reservation]
            if not mine:
                self._inside.pop(caller, None)

    def overloaded(self, why: str) -> Overloaded:
        """The refusal for want of room."""
        return Overloaded(
            f"the server is full ({self.images} of {self.max_images} images inside): {why}; try again later",
            retry_after=self.retry_after,
        )

    def has_room(self, reservation: Reservation, *, images: int = 0, body_bytes: int = 0) -> bool:
        """Whether so much more fits as it is."""
        bounded = images and self.max_of_one < self.max_images
        if bounded and self.held_by(reservation.caller) + images > self.max_of_one:
            return False
        return not reservation.displaced and self._fits(images=images, body_bytes=body_bytes)

    def held_by(self, caller: str) -> int:
        """How many images a caller holds."""
        return self._of(caller)[0]

    def _fits(self, *, images: int = 0, body_bytes: int = 0) -> bool:
        return self.images + images <= self.max_images and self.bytes + body_bytes <= self.max_bytes

    def _of(self, caller: str) -> tuple[int, int]:
        held = self._inside.get(caller, ())
        return sum(one.images for one in held), sum(one.bytes for one in held)

    def make_room(self, caller: str, *, images: int, body_bytes: int, now: bool) -> bool:
        """Whether a caller below its share gets room; `now`: make it, at the cost of those above theirs."""
        weights = {one: self._weights.of(one) for one in self._inside}
        total = sum(weights.values())

        def claim(one: str, images: int = 0, body_bytes: int = 0) -> float:
            """What a caller holds, and so much more, over its share."""
            held_images, held_bytes = self._of(one)
            part = max((held_images + images) / self.max_images, (held_bytes + body_bytes) / self.max_bytes)
            return part * total / weights[one]

        if claim(caller, images, body_bytes) > 1:
            return False
        while not self._fits(images=images, body_bytes=body_bytes):
            highest = max(self._inside, key=claim)
            if highest == caller or claim(highest) <= 1:
                return False
            held = [one for one in self._inside[highest] if one.task is not None and (one.images or one.bytes)]
            if not held or not now:
                return bool(held)
            held[-1].displace()
        return True

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
    """Images and bytes held by one request of a caller."""

    def __init__(self, admission: Admission, caller: str, task: asyncio.Task[object] | None) -> None:
        self._admission = admission
        self.caller = caller
        self.task = task
        self.displaced = False
        self.images = 0
        self.bytes = 0

    def grow(self, *, images: int = 0, body_bytes: int = 0) -> None:
        """Hold more. Raises `Overloaded`, and holds what it held, when there is no room."""
        if not self._admission.has_room(self, images=images, body_bytes=body_bytes):
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

    def require(self, *, images: int = 0, body_bytes: int = 0, now: bool = True) -> None:
        """Raise `Overloaded` unless so much more would fit, where others make room if they must."""
        inside = self._admission
        if images and inside.max_of_one < inside.max_images:
            held = inside.held_by(self.caller)
            if held + images > inside.max_of_one:
                raise inside.overloaded(f"{held} of them are yours, and {inside.max_of_one} may be")
        if not inside.make_room(self.caller, images=images, body_bytes=body_bytes, now=now):
            raise inside.overloaded("there is no room for more")

    def displace(self) -> None:
        """Make room: what is held is free at once, and the request ends as soon as its task runs."""
        self.displaced = True
        self.release()
        if self.task is not None:
            self.task.cancel()

    def release(self) -> None:
        """Give everything back."""
        self._admission.images -= self.images
        self._admission.bytes -= self.bytes
        self.images = self.bytes = 0

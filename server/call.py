"""What every inference route does around its own work: readiness, deadline, admission, and a client that may go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from oodguard.core.codes import Code
from oodguard.server.admission import Admission, Reservation
from oodguard.server.errors import ClientGone, RequestError
from oodguard.server.health import Health
from oodguard.server.numerals import decimal
from oodguard.server.settings import ServeSettings

# Where a request's scope holds the time at which its body was complete.
ARRIVED = "oodguard.arrived"
# And whom it counts for.
CALLER = "oodguard.caller"
TIMEOUT_HEADER = "x-request-timeout-ms"
SOURCE_HEADER = "x-oodguard-source"
# Less than this is no time to answer in, but a way to make a healthy server look broken.
SHORTEST_MS = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One admitted request; times are of `time.monotonic`.

    `seconds` is how long the server may take from the end of the body, so that a slow sender costs it nothing.
    """

    request: Request
    settings: ServeSettings
    reservation: Reservation
    started: float
    seconds: float

    def arrived(self) -> None:
        """Note that the whole body is here: the time to answer in begins."""
        self.request.scope[ARRIVED] = time.monotonic()

    @property
    def deadline(self) -> float:
        """When the answer is due; known once the body has arrived."""
        arrived: float = self.request.scope[ARRIVED]
        return arrived + self.seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the request was admitted."""
        return time.monotonic() - self.started

    def hold(self, images: int) -> None:
        """Take the places of the request's images. Raises `RequestError` for none or too many, `Overloaded`."""
        self.reservation.hold(images, most=self.settings.max_files)


@dataclass(frozen=True)
class Entrance:
    """Lets requests in."""

    settings: ServeSettings
    health: Health
    admission: Admission

    @contextmanager
    def admit(self, request: Request) -> Iterator[Call]:
        """Admit a request, or refuse it before its body is read.

        Raises `EngineUnavailable` when nothing can be answered, `Overloaded` when there is no room, `RequestError` for
        a timeout header that is not a number of milliseconds.
        """
        self.health.require_able()
        started, seconds = time.monotonic(), timeout_of(request.headers.get(TIMEOUT_HEADER), self.settings)
        caller = request.scope.get(CALLER, "")
        with self.admission.enter(caller, task=asyncio.current_task()) as reservation:
            yield Call(request, self.settings, reservation, started, seconds)


def timeout_of(text: str | None, settings: ServeSettings) -> float:
    """Seconds in which to answer: what a request's timeout header asks for, at most the server's limit.

    Raises `RequestError` for a header that is not a number of milliseconds.
    """
    if text is None:
        return settings.request_timeout
    milliseconds = decimal(text)
    if milliseconds is None or not milliseconds >= SHORTEST_MS:
        raise RequestError(
            Code.BAD_PARAMETER, f"X-Request-Timeout-Ms must be a number of at least {SHORTEST_MS} (milliseconds)"
        )
    return min(milliseconds / 1e3, settings.max_request_timeout)


async def while_connected(request: Request, work: Coroutine[None, None, T]) -> T:
    """The result of `work`, which is cancelled when the client closes its connection (`ClientGone`).

    To be called once the body has been read.
    """
    here = asyncio.current_task()
    assert here is not None
    gone = asyncio.ensure_future(_disconnected(request))

    def withdraw(_: asyncio.Task[None]) -> None:
        here.cancel()

    gone.add_done_callback(withdraw)
    try:
        return await work
    except asyncio.CancelledError:
        if gone.done():
            here.uncancel()
            raise ClientGone("the client went away") from None
        raise
    finally:
        gone.remove_done_callback(withdraw)
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""What every inference route does around its own work: readiness, deadline, admission, and a client that may go."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request

from oodguard.server.admission import Reservation
from oodguard.server.errors import ClientGone, RequestError
from oodguard.server.service import GuardService

TIMEOUT_HEADER = "x-request-timeout-ms"
# Less than this is no time to answer in, but a way to make a healthy server look broken.
SHORTEST_MS = 10

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Call:
    """One admitted request; times are of `time.monotonic`."""

    reservation: Reservation
    started: float
    deadline: float


@contextmanager
def admitted(request: Request, service: GuardService) -> Iterator[Call]:
    """Admit a request, or refuse it before its body is read.

    Raises `EngineUnavailable` when nothing can be answered, `Overloaded` when there is no room, `RequestError` for a
    timeout header that is not a positive number.
    """
    service.require_able()
    started = time.monotonic()
    deadline = started + _timeout(request, service)
    with service.admission.enter() as reservation:
        yield Call(reservation, started, deadline)


async def while_connected(request: Request, work: Coroutine[None, None, Result]) -> Result:
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


def _timeout(request: Request, service: GuardService) -> float:
    """Seconds the request may take: what the caller asks for, at most the server's limit."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return service.settings.request_timeout
    try:
        seconds = float(text) / 1e3
    except ValueError:
        seconds = math.nan
    if not 1e3 * seconds >= SHORTEST_MS:
        raise RequestError(
            "bad_parameter", f"X-Request-Timeout-Ms must be a number of at least {SHORTEST_MS} (milliseconds)"
        )
    return min(seconds, service.settings.max_request_timeout)

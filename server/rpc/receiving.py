"""How many messages may arrive at once.

gRPC hands a message over only as a whole, so nothing can count its bytes before. Therefore no more arrive at once than
fit even if each is as large as a message may be, and a slow one makes room when others wait.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from grpc.aio import EOF

from oodguard.core.codes import Code
from oodguard.server.errors import Overloaded, RequestError

RETRY_AFTER = 1


@dataclass(eq=False, slots=True)
class Incoming:
    """A message that is arriving; `hurried` once it must make room for others."""

    bound: asyncio.Timeout
    since: float
    hurried: bool = False


class Receiving:
    """Takes messages in, `at_once` at a time, each within `timeout` seconds.

    While others wait, messages that have been arriving for more than `patience` seconds are refused, oldest first. A
    message that waits stays with its sender, but for the 64 KiB of its stream's window.
    """

    def __init__(self, *, at_once: int, timeout: float, patience: float, most_bytes: int) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._timeout = timeout
        self._patience = patience
        self._most_bytes = most_bytes
        self._incoming: list[Incoming] = []
        self._waiting = 0

    async def read(self, context: Any) -> bytes:
        """The message of a call. Raises `RequestError` for one that is too slow or too large, `Overloaded`."""
        await self._enter()
        try:
            message = await self._arrive(context)
        finally:
            self._room.release()
        if message is EOF:
            # A message that is too large is refused by gRPC itself; this is for the counts.
            raise RequestError(
                Code.BODY_TOO_LARGE, f"the request message is larger than {self._most_bytes:,} bytes, or none came"
            )
        return cast(bytes, message)

    async def _enter(self) -> None:
        if not self._room.locked():
            await self._room.acquire()
            return
        self._waiting += 1
        self._hurry()
        try:
            async with asyncio.timeout(self._timeout):
                await self._room.acquire()
        except TimeoutError:
            raise _full("other messages are still arriving") from None
        finally:
            self._waiting -= 1

    async def _arrive(self, context: Any) -> Any:
        one = Incoming(asyncio.timeout(self._timeout), since=asyncio.get_running_loop().time())
        self._incoming.append(one)
        try:
            async with one.bound:
                self._hurry()
                return await context.read()
        except TimeoutError:
            if one.hurried:
                raise _full("the message arrived too slowly while others waited") from None
            raise RequestError(
                Code.TOO_SLOW, f"the request message did not arrive within {self._timeout:g} s"
            ) from None
        finally:
            self._incoming.remove(one)

    def _hurry(self) -> None:
        """Let as many messages end soon as wait, those first that have been arriving for longest."""
        patient = [one for one in self._incoming if not one.hurried]
        for one in patient[: max(0, self._waiting - len(self._incoming) + len(patient))]:
            one.hurried = True
            until = max(asyncio.get_running_loop().time(), one.since + self._patience)
            one.bound.reschedule(min(until, one.bound.when() or until))


def _full(why: str) -> Overloaded:
    return Overloaded(f"{why}; try again later", retry_after=RETRY_AFTER)

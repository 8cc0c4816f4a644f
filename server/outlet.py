"""What answers are written to: uvicorn's cycle and flow control, with the connection's own way to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from oodguard.core.codes import Code
from oodguard.core.problems import problem
from oodguard.server.incidents import Incidents
from oodguard.server.problems import PROBLEM_JSON
from oodguard.server.settings import ServeSettings


@dataclass
class Hall:
    """What the connections of one port share: their limits, and how many bytes of them are read ahead."""

    settings: ServeSettings
    incidents: Incidents
    most: int
    ahead: int = 0


class Ending(Protocol):
    """A connection that ends in its own way."""

    ending: bool

    def put(self, data: bytes) -> None:
        """Write."""

    def finish(self) -> None:
        """End."""


class Outlet:
    """In place of a transport: once the connection is ending, nothing more is written to it."""

    def __init__(self, connection: Ending) -> None:
        self._connection = connection

    def write(self, data: bytes) -> None:
        """Write a part of an answer."""
        self._connection.put(data)

    def close(self) -> None:
        """End the connection in order."""
        self._connection.finish()

    def is_closing(self) -> bool:
        """Whether nothing more may be written."""
        return self._connection.ending


class Flow(FlowControl):
    """Flow control that stays where it is while the connection may not be read."""

    held = False

    def resume_reading(self) -> None:
        """Read on, unless reading is held."""
        if not self.held:
            super().resume_reading()

    def hold(self) -> None:
        """Read nothing until `release`."""
        self.held = True
        self.pause_reading()

    def release(self) -> None:
        """Read on."""
        self.held = False
        self.resume_reading()


class Cycle(RequestResponseCycle):
    """One request and its answer. `lasts`: whether the connection may serve another one after it."""

    lasts: Callable[[], bool]

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the answer; its head says whether the connection ends."""
        if not self.response_started and not self.lasts():
            self.keep_alive = False
        await super().send(message)


def refusal(code: Code, detail: str, request_id: str) -> bytes:
    """The answer to a connection or request that is refused below HTTP, and with which the connection ends."""
    body = json.dumps(problem(code, detail).model_dump(exclude_none=True, exclude={"errors"}))
    head = [
        f"HTTP/1.1 {code.status} {HTTPStatus(code.status).phrase}",
        f"content-type: {PROBLEM_JSON}",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        *(["retry-after: 1"] if code is Code.OVERLOADED else []),
        "connection: close",
    ]
    return "\r\n".join([*head, "", body]).encode()

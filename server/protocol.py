"""The HTTP connection: uvicorn's httptools protocol with the limits it lacks."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from oodguard.core.codes import Code
from oodguard.core.problems import problem
from oodguard.server.problems import PROBLEM_JSON
from oodguard.server.settings import ServeSettings

# What a client had sent before it could know that the port closes arrives within this.
LAST_WORDS = 0.25


class LimitedProtocol(HttpToolsProtocol):
    """One connection. A head that is too slow or too large, and one connection too many, are refused here.

    The head's time starts with the connection, or with the first byte of a later request; a client that sends
    nothing, or one byte a second, is cut off without ever costing a task.
    """

    settings: ClassVar[ServeSettings]
    most: ClassVar[int]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many, or expect its first request's head."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._refuse(Code.OVERLOADED, f"more than {self.most} connections are open")
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bound the head."""
        if self.transport.is_closing():
            return
        if self._in_head:
            # Counted before parsing: a head that never ends would otherwise be kept whole.
            self._head_bytes += len(data)
        super().data_received(data)
        limit = self.settings.max_header_bytes
        if self._in_head and self._head_bytes > limit and not self.transport.is_closing():
            self._refuse(Code.HEADER_TOO_LARGE, f"the request head is larger than {limit:,} bytes")

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._in_head = True
        if self._head_timer is None:
            self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End the head."""
        self._in_head = False
        self._head_bytes = 0
        self._head_arrived()
        super().on_headers_complete()

    def shutdown(self) -> None:
        """End the connection: after its answer, or, when it has nothing to answer, once nothing more arrives."""
        if self.cycle is None or self.cycle.response_complete:
            # Closing now would reset a connection whose request is on its way or not read yet.
            self.loop.call_later(LAST_WORDS, super().shutdown)
        else:
            super().shutdown()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.settings.header_timeout, self._too_slow)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            seconds = self.settings.header_timeout
            self._refuse(Code.TOO_SLOW, f"the request head did not arrive within {seconds:g} s")

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with a problem document."""
        self._refuse(Code.BAD_REQUEST, msg)

    def _refuse(self, code: Code, detail: str) -> None:
        body = json.dumps(problem(code, detail).model_dump(exclude_none=True, exclude={"errors"}))
        head = [
            f"HTTP/1.1 {code.status} {HTTPStatus(code.status).phrase}",
            f"content-type: {PROBLEM_JSON}",
            f"content-length: {len(body)}",
            *(["retry-after: 1"] if code is Code.OVERLOADED else []),
            "connection: close",
        ]
        self._head_arrived()
        self.transport.write("\r\n".join([*head, "", body]).encode())
        self.transport.close()


def protocol_for(settings: ServeSettings, *, most: int) -> type[LimitedProtocol]:
    """The protocol class with the limits of `settings`, for at most `most` connections at once."""
    return type("LimitedProtocol", (LimitedProtocol,), {"settings": settings, "most": most})

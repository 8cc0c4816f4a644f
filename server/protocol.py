"""The HTTP connection: uvicorn's httptools protocol with the limits it lacks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from oodguard.core.problems import problem
from oodguard.server.problems import PROBLEM_JSON
from oodguard.server.settings import ServeSettings

# What a client had sent before it could know that the port closes arrives within this.
LAST_WORDS = 0.25


def protocol_for(settings: ServeSettings) -> type[HttpToolsProtocol]:
    """The protocol class with the limits of `settings`."""

    class LimitedProtocol(HttpToolsProtocol):
        """One connection. A head that is too slow or too large, and one connection too many, are refused here.

        The head's time starts with the connection, or with the first byte of a later request; a client that sends
        nothing, or one byte a second, is cut off without ever costing a task.
        """

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
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                self._refuse("overloaded", f"more than {settings.max_connections} connections are open")
                return
            self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_arrived()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._in_head:
                # Counted before parsing: a head that never ends would otherwise be kept whole.
                self._head_bytes += len(data)
            super().data_received(data)
            if self._in_head and self._head_bytes > settings.max_header_bytes and not self.transport.is_closing():
                self._refuse("header_too_large", f"the request head is larger than {settings.max_header_bytes:,} bytes")

        def on_message_begin(self) -> None:
            self._in_head = True
            if self._head_timer is None:
                self._expect_head()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
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
            self._head_timer = self.loop.call_later(settings.header_timeout, self._too_slow)

        def _head_arrived(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_slow(self) -> None:
            self._head_timer = None
            if not self.transport.is_closing():
                self._refuse("too_slow", f"the request head did not arrive within {settings.header_timeout:g} s")

        def send_400_response(self, msg: str) -> None:
            """Answer what is not HTTP with a problem document."""
            self._refuse("bad_request", msg)

        def _refuse(self, code: str, detail: str) -> None:
            found = problem(code, detail)
            body = json.dumps(found.model_dump(exclude_none=True, exclude={"errors"})).encode()
            head = [
                STATUS_LINE[found.status],
                b"content-type: " + PROBLEM_JSON.encode() + b"\r\n",
                b"content-length: " + str(len(body)).encode() + b"\r\n",
                b"retry-after: 1\r\n" if found.status == 429 else b"",
                b"connection: close\r\n\r\n",
            ]
            self._head_arrived()
            self.transport.write(b"".join([*head, body]))
            self.transport.close()

    return LimitedProtocol

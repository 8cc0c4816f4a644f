"""What surrounds every request: its id, who may call, security headers, counting, one log line."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from oodguard.core.codes import Code
from oodguard.core.errors import OodguardError
from oodguard.server.callers import Callers
from oodguard.server.errors import RequestError
from oodguard.server.health import Health
from oodguard.server.logs import log_request
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.problems import refuse
from oodguard.server.routes import Route, RouteTable
from oodguard.server.tracing import CURRENT, Tracing

REQUEST_ID = re.compile(rb"^[A-Za-z0-9._:/+=-]{1,128}$")
SECURITY_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'",
    ),
]
NO_STORE = (b"cache-control", b"no-store")
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
CLOSE = (b"connection", b"close")


class Exchange:
    """One request and what was answered: `status` is 499 while nothing was, `key` the name of the caller's key."""

    def __init__(self, scope: Scope, send: Send, *, route: Route, health: Health) -> None:
        self.started = time.monotonic()
        self.route = route
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        self.request_id = given if REQUEST_ID.match(given) else b"%032x" % random.getrandbits(128)
        self.status = 499
        self.begun = False
        self.key: str | None = None
        self._secure = scope["scheme"] == "https"
        self._send = send
        self._health = health

    async def send(self, message: Message) -> None:
        """Send a part of the answer, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._more_headers(message)]
        await self._send(message)

    def _more_headers(self, message: Message) -> Iterator[tuple[bytes, bytes]]:
        yield b"x-request-id", self.request_id
        yield from SECURITY_HEADERS
        if all(name != b"cache-control" for name, _ in message["headers"]):
            yield NO_STORE
        if self._secure:
            yield STRICT_TRANSPORT
        if self._health.draining or self.status == 408:
            yield CLOSE

    def header(self, name: bytes) -> str | None:
        """A request header as text."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Frame:
    """ASGI middleware around one application; plain ASGI, because it runs on every request."""

    def __init__(
        self,
        app: FastAPI,
        routes: Sequence[Route],
        *,
        metrics: Metrics,
        health: Health,
        callers: Callers,
        tracing: Tracing | None,
    ) -> None:
        self.app = app
        self._routes = RouteTable(routes)
        self._metrics = metrics
        self._health = health
        self._callers = callers
        self._tracing = tracing
        metrics.expect(route.label for route in routes if route.inference)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send, route=self._routes.of(scope["path"]), health=self._health)
        try:
            with self._traced(exchange):
                try:
                    self._require_key(exchange)
                    await self.app(scope, receive, exchange.send)
                except Exception as error:  # the last line: whatever happens, the caller gets a problem document
                    self._report(exchange, error)
                    if not exchange.begun:
                        response = refuse(error, path=scope["path"], metrics=self._metrics)
                        await response(scope, receive, exchange.send)
        finally:
            self._count(exchange)

    @contextmanager
    def _traced(self, exchange: Exchange) -> Iterator[None]:
        if self._tracing is None or not exchange.route.inference:
            yield
            return
        trace = self._tracing.begin(
            method=exchange.method,
            route=exchange.route.label,
            request_id=exchange.request_id.decode(),
            headers=exchange.headers,
        )
        token = CURRENT.set(trace)
        try:
            yield
        finally:
            CURRENT.reset(token)
            trace.end(exchange.status)

    def _require_key(self, exchange: Exchange) -> None:
        if exchange.route.open or not self._callers.need_keys:
            return
        exchange.key = self._callers.who(exchange.header(b"authorization"), exchange.header(b"x-api-key"))
        if exchange.key is None:
            raise RequestError(Code.UNAUTHORIZED, "send a valid key as Authorization: Bearer KEY or X-API-Key")

    def _report(self, exchange: Exchange, error: Exception) -> None:
        if not isinstance(error, OodguardError):
            about = {"request_id": exchange.request_id.decode(), "route": exchange.route.label}
            log.error("unexpected error", exc_info=error, extra=about)

    def _count(self, exchange: Exchange) -> None:
        seconds = time.monotonic() - exchange.started
        route, status = exchange.route, exchange.status
        self._metrics.request(route.label, status)
        if route.inference and status == 200:
            self._metrics.took(route.label, seconds)
        log_request(
            request_id=exchange.request_id.decode(),
            method=exchange.method,
            route=route.label,
            status=status,
            seconds=seconds,
            key=exchange.key,
        )

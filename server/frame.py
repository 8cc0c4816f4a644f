"""What surrounds every request: its id, who may call, security headers, counting, one log line."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oodguard.core.codes import Code
from oodguard.core.errors import OodguardError
from oodguard.core.problems import problem_of
from oodguard.server.call import ARRIVED
from oodguard.server.errors import RequestError
from oodguard.server.health import Health
from oodguard.server.keys import KeyRing
from oodguard.server.logs import log_request
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.problems import problem_response, unroutable
from oodguard.server.routes import OTHER, Route, RouteTable
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
# Where a request's scope holds its exchange.
EXCHANGE = "oodguard.exchange"
# Every route that answers GET answers HEAD alike; the server leaves the body out.
READS = {"HEAD": "GET"}
# What a page of another origin may send and read beside what browsers always let it.
MAY_SEND = ("Authorization", "X-API-Key", "X-Request-Id", "X-Request-Timeout-Ms", "Inference-Header-Content-Length")
MAY_READ = ("X-Request-Id", "Retry-After", "Inference-Header-Content-Length")


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


def cross_origin(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """`app`, which pages of these origins may call; browsers ask first, without a key, and are answered here."""
    return CORSMiddleware(app, origins, allow_methods=("GET", "POST"), allow_headers=MAY_SEND, expose_headers=MAY_READ)


class Frame:
    """ASGI around one application's router; plain ASGI, because it runs on every request."""

    def __init__(
        self,
        app: FastAPI,
        routes: Sequence[Route],
        *,
        metrics: Metrics,
        health: Health,
        keys: KeyRing,
        tracing: Tracing | None,
        root_path: str = "",
        cors_origins: Sequence[str] = (),
    ) -> None:
        self.app = app
        # A redirect to the path without its slash would go to http:// behind a proxy with TLS, image, key and all.
        app.router.redirect_slashes = False
        self._root_path = root_path
        self._handle: ASGIApp = cross_origin(self._answer, cors_origins) if cors_origins else self._answer
        self._routes = RouteTable(routes)
        self._metrics = metrics
        self._health = health
        self._keys = keys
        self._tracing = tracing
        metrics.expect(route.label for route in routes if route.inference)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = self._without_root(scope["path"])
        exchange = Exchange(scope, send, route=self._routes.of(path), health=self._health)
        # A copy: the server's own scope says how the answer is sent, for HEAD without its body.
        method = READS.get(exchange.method, exchange.method)
        scope = {**scope, "app": self.app, "path": path, "method": method, EXCHANGE: exchange}
        try:
            with self._traced(exchange):
                await self._handle(scope, receive, exchange.send)
        finally:
            self._count(exchange, scope.get(ARRIVED, exchange.started))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the router answer who may ask."""
        exchange: Exchange = scope[EXCHANGE]
        try:
            if scope["path"] == self._root_path != "":
                # The page's own links are relative to the folder.
                await RedirectResponse(f"{self._root_path}/")(scope, receive, send)
                return
            self._require_key(exchange)
            # Not through the application's own middleware: what it would do is done here, for less.
            await self.app.router(scope, receive, send)
        except Exception as error:  # whatever happens, the caller gets a problem document
            response = self._refusal(exchange, scope["path"], error)
            if not exchange.begun:
                await response(scope, receive, send)

    def _without_root(self, path: str) -> str:
        """The path below the prefix under which a proxy publishes the server, whether or not the proxy strips it."""
        root = self._root_path
        return path[len(root) :] if root and path.startswith(f"{root}/") else path

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
        if exchange.route.open or not self._keys.needed:
            return
        exchange.key = self._keys.who(exchange.header(b"authorization"), exchange.header(b"x-api-key"))
        if exchange.key is None:
            raise RequestError(Code.UNAUTHORIZED, "send a valid key as Authorization: Bearer KEY or X-API-Key")

    def _refusal(self, exchange: Exchange, path: str, error: Exception) -> Response:
        """The answer to a request that met an error, which is counted under its code, and logged if it is our own."""
        if isinstance(error, HTTPException):
            without_slash = path.rstrip("/")
            meant = without_slash if self._routes.of(without_slash) is not OTHER else None
            return unroutable(error, method=exchange.method, path=path, meant=meant)
        if not isinstance(error, OodguardError):
            about = {"request_id": exchange.request_id.decode(), "route": exchange.route.label}
            log.error("unexpected error", exc_info=error, extra=about)
        found = problem_of(error)
        self._metrics.refuse(Code(found.code))
        return problem_response(found, path=path, retry_after=getattr(error, "retry_after", None))

    def _count(self, exchange: Exchange, arrived: float) -> None:
        now = time.monotonic()
        route, status = exchange.route, exchange.status
        self._metrics.request(route.label, status)
        if route.inference and status == 200:
            self._metrics.took(route.label, now - arrived)
        log_request(
            request_id=exchange.request_id.decode(),
            method=exchange.method,
            route=route.label,
            status=status,
            seconds=now - exchange.started,
            key=exchange.key,
        )

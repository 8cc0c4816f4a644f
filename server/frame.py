"""What surrounds every HTTP request: who may call, security headers, problem documents, counting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from oodguard.server.health import Health
from oodguard.server.problems import problem_response, unroutable
from oodguard.server.reception import Reception, Visit
from oodguard.server.routes import Route, RouteTable

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


class Exchange(Visit):
    """One request over HTTP, and what was answered."""

    def __init__(self, scope: Scope, send: Send, *, route: Route, health: Health) -> None:
        super().__init__(route, method=scope["method"], headers=dict(scope["headers"]))
        self.begun = False
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


class Frame:
    """ASGI around one application's router; plain ASGI, because it runs on every request."""

    def __init__(
        self,
        app: FastAPI,
        routes: Sequence[Route],
        *,
        reception: Reception,
        health: Health,
    ) -> None:
        self.app = app
        self._routes = RouteTable(routes)
        self._reception = reception
        self._health = health
        reception.expect(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["app"] = self.app
        exchange = Exchange(scope, send, route=self._routes.of(scope["path"]), health=self._health)
        try:
            with self._reception.traced(exchange):
                try:
                    self._reception.require_key(exchange)
                    # Not through the application's own middleware: what it would do is done here, for less.
                    await self.app.router(scope, receive, exchange.send)
                except Exception as error:  # whatever happens, the caller gets a problem document
                    response = self._refusal(exchange, scope["path"], error)
                    if not exchange.begun:
                        await response(scope, receive, exchange.send)
        finally:
            self._reception.ended(exchange)

    def _refusal(self, exchange: Exchange, path: str, error: Exception) -> Response:
        """The answer to a request that met an error."""
        if isinstance(error, HTTPException):
            return unroutable(error, method=exchange.method, path=path)
        found = self._reception.refused(exchange, error)
        return problem_response(found, path=path, retry_after=getattr(error, "retry_after", None))

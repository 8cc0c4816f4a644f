"""What surrounds every HTTP request: who may call, security headers, problem documents, counting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oodguard.core.page_headers import NO_STORE, page_headers
from oodguard.server.call import ARRIVED, CALLER
from oodguard.server.health import Probes
from oodguard.server.pages import Pages
from oodguard.server.problems import problem_response, unroutable
from oodguard.server.reception import Reception, Visit
from oodguard.server.routes import OTHER, Route, RouteTable

SECURITY_HEADERS = page_headers(images="'self' blob: data:")
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
CLOSE = (b"connection", b"close")
# Where a request's scope holds its exchange.
EXCHANGE = "oodguard.exchange"
# Every route that answers GET answers HEAD alike; the server leaves the body out.
READS = {"HEAD": "GET"}
# What a page of another origin may send and read beside what browsers always let it.
MAY_SEND = ("Authorization", "X-API-Key", "X-Request-Id", "X-Request-Timeout-Ms", "Inference-Header-Content-Length")
MAY_READ = ("X-Request-Id", "Retry-After", "Inference-Header-Content-Length")


class Exchange(Visit):
    """One request over HTTP, and what was answered."""

    def __init__(self, scope: Scope, send: Send, *, route: Route, health: Probes) -> None:
        client = scope["client"]
        address = client[0] if client else None
        super().__init__(route, method=scope["method"], headers=dict(scope["headers"]), address=address)
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


def cross_origin(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """`app`, which pages of these origins may call; browsers ask first, without a key, and are answered here."""
    return CORSMiddleware(app, origins, allow_methods=("GET", "POST"), allow_headers=MAY_SEND, expose_headers=MAY_READ)


class Frame:
    """ASGI around one application's router; plain ASGI, because it runs on every request."""

    def __init__(
        self,
        app: Starlette,
        routes: Sequence[Route],
        *,
        reception: Reception,
        health: Probes,
        root_path: str = "",
        cors_origins: Sequence[str] = (),
        pages: Pages,
    ) -> None:
        self.app = app
        # A redirect to the path without its slash would go to http:// behind a proxy with TLS, image, key and all.
        app.router.redirect_slashes = False
        self._root_path = root_path
        self._handle: ASGIApp = cross_origin(self._answer, cors_origins) if cors_origins else self._answer
        self._routes = RouteTable(routes)
        self._reception = reception
        self._health = health
        self._pages = pages
        reception.expect(routes)

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
            with self._reception.traced(exchange):
                await self._handle(scope, receive, exchange.send)
        finally:
            exchange.arrived = scope.get(ARRIVED, exchange.started)
            self._reception.ended(exchange)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the router answer who may ask."""
        exchange: Exchange = scope[EXCHANGE]
        try:
            if scope["path"] == self._root_path != "":
                # The page's own links are relative to the folder.
                await RedirectResponse(f"{self._root_path}/")(scope, receive, send)
                return
            self._reception.require_key(exchange)
            if self._pages.needed and exchange.key is None:
                self._pages.require(exchange.method, exchange.headers)
            scope[CALLER] = exchange.caller
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

    def _refusal(self, exchange: Exchange, path: str, error: Exception) -> Response:
        """The answer to a request that met an error."""
        if isinstance(error, HTTPException):
            without_slash = path.rstrip("/")
            meant = without_slash if self._routes.of(without_slash) is not OTHER else None
            return unroutable(error, method=exchange.method, path=path, meant=meant)
        found = self._reception.refused(exchange, error)
        return problem_response(found, path=path, retry_after=getattr(error, "retry_after", None))

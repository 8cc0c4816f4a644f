"""What surrounds every request: its id, who may call, security headers, counting, one log line."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.types import Message, Receive, Scope, Send

from oodguard.core.errors import OodguardError
from oodguard.core.problems import problem_of
from oodguard.server.errors import RequestError
from oodguard.server.logs import log_request
from oodguard.server.logs import server as log
from oodguard.server.metrics import INFERENCE
from oodguard.server.problems import error_response
from oodguard.server.service import GuardService
from oodguard.server.tracing import CURRENT

REQUEST_ID = re.compile(rb"^[A-Za-z0-9._:/+=-]{1,128}$")
MODEL_ROUTE = "/v2/models/*"
SAMPLE_ROUTE = "/samples/*"
STATIC_ROUTE = "/static/*"
FAMILIES = (MODEL_ROUTE, STATIC_ROUTE, SAMPLE_ROUTE)
Endpoint = Callable[[Request], Awaitable[Response]]
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


class Frame:
    """ASGI middleware around the application; plain ASGI, because it runs on every request.

    `open_routes` need no key; `routes` are the names that requests are counted under, anything else is "other".
    `direct` endpoints are called without the application's own middleware and dependency machinery, which costs more
    than decoding a small image; the application lists them for its OpenAPI document alone.
    """

    def __init__(
        self,
        app: FastAPI,
        service: GuardService,
        *,
        routes: Collection[str],
        open_routes: Collection[str],
        direct: Mapping[tuple[str, str], Endpoint] | None = None,
    ) -> None:
        self._app = app
        self._service = service
        self._routes = frozenset(routes)
        self._open = frozenset(open_routes)
        self._direct = dict(direct or {})
        service.metrics.routes(route for route in routes if route in INFERENCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.match(given) else b"%032x" % random.getrandbits(128)
        status = 499
        begun = False

        async def framed(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun = True
                status = message["status"]
                extra = [(b"x-request-id", request_id), *SECURITY_HEADERS]
                if all(name != b"cache-control" for name, _ in message["headers"]):
                    extra.append(NO_STORE)
                if scope["scheme"] == "https":
                    extra.append(STRICT_TRANSPORT)
                if self._service.draining or status == 408:
                    extra.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        route = self._route(scope["path"])
        key: str | None = None
        trace = token = None
        if self._service.tracing is not None and route in INFERENCE:
            trace = self._service.tracing.begin(
                method=scope["method"], route=route, request_id=request_id.decode(), headers=headers
            )
            token = CURRENT.set(trace)
        try:
            keys = self._service.keys
            if keys is not None and route not in self._open:
                key = keys.who(_text(headers.get(b"authorization")), _text(headers.get(b"x-api-key")))
                if key is None:
                    raise RequestError("unauthorized", "send a valid key as Authorization: Bearer KEY or X-API-Key")
            endpoint = self._direct.get((scope["method"], scope["path"]))
            if endpoint is None:
                await self._app(scope, receive, framed)
            else:
                scope["app"] = self._app
                response = await endpoint(Request(scope, receive))
                await response(scope, receive, framed)
        except Exception as error:  # the last line: whatever happens, the caller gets a problem document
            if not isinstance(error, OodguardError):
                log.exception("unexpected error", extra={"request_id": request_id.decode(), "route": route})
            if not begun:
                self._service.metrics.rejected[problem_of(error).code].inc()
                await error_response(error, path=scope["path"])(scope, receive, framed)
        finally:
            if trace is not None and token is not None:
                CURRENT.reset(token)
                trace.end(status)
            seconds = time.monotonic() - started
            metrics = self._service.metrics
            metrics.request(route, status)
            if status == 200 and scope["method"] == "POST" and route in metrics.timed:
                metrics.timed[route].observe(seconds)
            log_request(
                request_id=request_id.decode(),
                method=scope["method"],
                route=route,
                status=status,
                seconds=seconds,
                key=key,
            )

    def _route(self, path: str) -> str:
        if path in self._routes:
            return path
        for family in FAMILIES:
            if path.startswith(family[:-1]) and family in self._routes:
                return family
        return "other"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")

"""The page's routes on this machine alone: behind a secret path, for pages of its own origin, with a strict policy."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oodguard.core.errors import ImageError, OodguardError
from oodguard.core.frozen import first_fault
from oodguard.core.page_headers import NO_STORE, page_headers
from oodguard.review.pictures import LARGE, SMALL
from oodguard.review.session import AskedLevel, AskedMark, ReviewSession

STATIC = Path(__file__).with_name("static")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
MAX_BODY = 2 << 20
# Under a path that no other session has, a picture's number says all: browsers need not ask again.
KEPT = {"cache-control": "private, max-age=86400, immutable"}
SECURITY_HEADERS = [
    *page_headers(images="'self' data:"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]

Body = TypeVar("Body", bound=BaseModel)
Found = TypeVar("Found")


def create_app(
    session: ReviewSession, *, token: str, port: int, ticket: str | None = None, workers: int = 2
) -> ASGIApp:
    """The application under `/TOKEN/`, for browsers that call it 127.0.0.1 or localhost at `port`.

    ticket: another secret path, which leads to the page once. workers: threads that decode pictures, which bounds how
    many are in memory.
    """
    routes = _Routes(session, workers)
    table = [
        Route(f"/{{token}}/{path}", endpoint, methods=methods)
        for path, endpoint, methods in (
            ("", routes.page, ["GET"]),
            ("static/{name}", routes.static, ["GET"]),
            ("overview", routes.overview, ["GET"]),
            ("marks", routes.marks, ["GET"]),
            ("groups", routes.groups, ["GET"]),
            ("small/{number:int}", routes.small, ["GET"]),
            ("large/{number:int}", routes.large, ["GET"]),
            ("near/{number:int}", routes.near, ["GET"]),
            ("photo/{sha256}", routes.photo, ["GET"]),
            ("mark", routes.mark, ["POST"]),
            ("undo", routes.undo, ["POST"]),
            ("regroup", routes.regroup, ["POST"]),
        )
    ]
    app = Starlette(routes=table, exception_handlers={OodguardError: _refused})
    app.router.redirect_slashes = False
    return _Door(app, token=token, port=port, ticket=ticket)


class _Door:
    """Who may come in: who calls the server by its own name, knows the token, and is no page of another origin."""

    def __init__(self, app: ASGIApp, *, token: str, port: int, ticket: str | None) -> None:
        self._app = app
        self._token = token.encode()
        self._ticket = ticket
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = any(name == b"cache-control" for name, _ in message["headers"])
                more = SECURITY_HEADERS if kept else [*SECURITY_HEADERS, NO_STORE]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        why = self._refusal(scope)
        if why is None and scope["path"] == f"/{self._ticket}/":
            self._ticket = None
            await RedirectResponse(f"/{self._token.decode()}/", 303)(scope, receive, answer)
        elif why is None:
            await self._app(scope, receive, answer)
        else:
            await JSONResponse({"detail": why}, 403)(scope, receive, answer)

    def _refusal(self, scope: Scope) -> str | None:
        headers = {}
        for name, value in scope["headers"]:
            # Of two Host fields neither can be believed.
            headers[name] = b"" if name in headers else value
        host = headers.get(b"host", b"").lower()
        # A page elsewhere may give its own name this machine's address (DNS rebinding); the name gives it away.
        if host not in self._hosts:
            return "open the address that oodguard review printed"
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() != b"http://" + host:
            return "a page of another origin may not ask"
        if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            return "a page of another origin may not ask"
        if scope["method"] == "POST" and headers.get(b"content-type") != b"application/json":
            return "send application/json"
        given = scope["path"].split("/")[1].encode(errors="surrogateescape")
        if self._ticket is not None and hmac.compare_digest(given, self._ticket.encode()):
            return None if scope["path"] == f"/{self._ticket}/" and scope["method"] == "GET" else "open the page first"
        if not hmac.compare_digest(given, self._token):
            return "open the address that oodguard review printed, with the secret in it"
        return None


class _Routes:
    def __init__(self, session: ReviewSession, workers: int) -> None:
        self._session = session
        # Made before anybody waits for it.
        _ = session.overview
        self._decoders = ThreadPoolExecutor(workers, thread_name_prefix="copies")
        # One decision after the other, each on the disk before the next.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="marks")
        self._files = {
            path.name: (path.read_bytes(), TYPES[path.suffix]) for path in STATIC.iterdir() if path.suffix in TYPES
        }

    async def page(self, _: Request) -> Response:
        return self._file("review.html")

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        return self._file(name) if name in self._files else _missing()

    def _file(self, name: str) -> Response:
        content, kind = self._files[name]
        return Response(content, headers={"content-type": kind})

    async def overview(self, _: Request) -> Response:
        return Response(self._session.overview, media_type="application/json")

    async def marks(self, _: Request) -> Response:
        return JSONResponse(await _in(self._writer, self._session.marks))

    async def groups(self, request: Request) -> Response:
        found = self._session.groups()
        if request.query_params.get("have") == str(found["version"]):
            # The groups are the large part, and the page has them.
            found = {**found, "groups": None}
        return JSONResponse(found)

    async def small(self, request: Request) -> Response:
        return await self._copy(request, SMALL)

    async def large(self, request: Request) -> Response:
        return await self._copy(request, LARGE)

    async def _copy(self, request: Request, side: int) -> Response:
        number = request.path_params["number"]
        if number >= len(self._session.pictures):
            return _missing()
        try:
            made = await _in(self._decoders, partial(self._session.pictures.copy, number, side=side))
        except ImageError as error:
            return JSONResponse({"detail": str(error)}, 422)
        except OSError:
            return _missing()
        return Response(made, media_type="image/jpeg", headers=KEPT)

    async def near(self, request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(self._session.pictures):
            return _missing()
        return JSONResponse(self._session.near(number))

    async def photo(self, request: Request) -> Response:
        found = self._session.photo(request.path_params["sha256"])
        return _missing() if found is None else Response(found, media_type="image/jpeg", headers=KEPT)

    async def mark(self, request: Request) -> Response:
        decision = await _read(request, AskedMark)
        return JSONResponse(await _in(self._writer, partial(self._session.decide, decision)))

    async def undo(self, _: Request) -> Response:
        return JSONResponse(await _in(self._writer, self._session.undo))

    async def regroup(self, request: Request) -> Response:
        asked = await _read(request, AskedLevel)
        return JSONResponse(await _in(self._writer, partial(self._session.regroup, asked)))


class _BadBody(OodguardError):
    """A body that the page does not send."""


async def _in(pool: ThreadPoolExecutor, work: Callable[[], Found]) -> Found:
    return await asyncio.get_running_loop().run_in_executor(pool, work)


async def _read(request: Request, kind: type[Body]) -> Body:
    """The body. Raises `_BadBody`."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY:
            raise _BadBody(f"a body may have {MAX_BODY:,} bytes")
    try:
        return kind.model_validate(json.loads(data), strict=False)
    except (ValueError, RecursionError) as error:
        why = first_fault(error, whole="body") if isinstance(error, ValidationError) else "it is not JSON"
        raise _BadBody(f"the body cannot be read: {why}") from None


async def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse(
        {"detail": str(error)}, 400 if isinstance(error, OodguardError) and error.exit_code < 3 else 500
    )


def _missing() -> Response:
    return JSONResponse({"detail": "there is nothing here"}, 404)

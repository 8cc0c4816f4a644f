"""What the page's routes do with HTTP: its files, the model card, the last minute's traffic, images to try."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from oodguard.core.formats import CONTENT_TYPES
from oodguard.core.problems import Problem
from oodguard.server.card import ModelCard, card_of, sample_files
from oodguard.server.errors import RequestError
from oodguard.server.model import ServedModel
from oodguard.server.problems import PROBLEM_JSON
from oodguard.server.service import GuardService
from oodguard.server.traffic import Traffic, TrafficReport

STATIC = Path(__file__).with_name("static")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
# Kept by browsers, and asked for anew each time: the answer is then 304 without a body.
REVALIDATE = {"cache-control": "no-cache"}


class Page:
    """The page of one service; `run` samples its traffic."""

    def __init__(self, service: GuardService) -> None:
        self.service = service
        self.traffic = Traffic(service)
        # A replaced model must not be kept alive by its card.
        self._of: weakref.ref[ServedModel] | None = None
        self._card = b""

    @property
    def card(self) -> bytes:
        """The model card as JSON, made once for each model."""
        model = self.service.model
        if self._of is None or self._of() is not model:
            self._card = card_of(model, self.service.settings).model_dump_json().encode()
            self._of = weakref.ref(model)
        return self._card


@dataclass(frozen=True)
class Asset:
    """A file of the page, read once."""

    content: bytes
    kind: str
    etag: str

    @classmethod
    def load(cls, name: str) -> Asset:
        """The file of that name in `static/`."""
        path = STATIC / name
        content = path.read_bytes()
        return cls(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:20]}"')

    async def __call__(self, request: Request) -> Response:
        """The file, or 304 when the browser has it."""
        headers = {**REVALIDATE, "etag": self.etag}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers={**headers, "content-type": self.kind})


def add_docs(app: FastAPI) -> None:
    """Add `/docs`."""
    _add_static(app, "docs")


def add_page(app: FastAPI, service: GuardService) -> Page:
    """Add the page and what it reads; the traffic it shows is sampled by the returned page's `traffic.run`."""
    page = app.state.page = Page(service)
    _add_static(app, "page")
    problems: dict[str, Any] = {"model": Problem, "content": {PROBLEM_JSON: {}}}
    refused: dict[int | str, dict[str, Any]] = {401: {**problems, "description": "API key needed"}}
    app.add_api_route("/model", model_card, response_model=ModelCard, responses=refused, tags=["page"])
    app.add_api_route("/traffic", traffic, response_model=TrafficReport, responses=refused, tags=["page"])
    app.add_api_route(
        "/samples/{number}",
        sample,
        response_class=Response,
        responses={
            200: {
                "description": "The image",
                "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            },
            404: {**problems, "description": "There is no such sample"},
            **refused,
        },
        openapi_extra={
            "parameters": [
                {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
            ]
        },
        tags=["page"],
    )
    return page


def add_redirect(app: FastAPI) -> None:
    """Send whoever comes to `/` to the documentation: there is no page."""
    app.add_api_route("/", root, include_in_schema=False)


def _add_static(app: FastAPI, name: str) -> None:
    files = {path.name: Asset.load(path.name) for path in sorted(STATIC.glob("*"))}
    routes = {"/" if name == "page" else f"/{name}": files[f"{name}.html"]}
    routes |= {
        f"/static/{file}": asset for file, asset in files.items() if file.startswith(name) and ".html" not in file
    }
    for path, asset in routes.items():
        app.add_api_route(path, _endpoint(asset), methods=["GET", "HEAD"], include_in_schema=False)


def _endpoint(asset: Asset) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        return await asset(request)

    return serve


async def model_card(request: Request) -> Response:
    """The model card: classes, scores, every threshold at many target acceptances, what was measured and checked."""
    page: Page = request.app.state.page
    return Response(page.card, media_type="application/json")


async def traffic(request: Request) -> Response:
    """The last minute: images a second, share flagged, latency, queue."""
    page: Page = request.app.state.page
    return Response(page.traffic.report().model_dump_json(), media_type="application/json")


async def sample(request: Request) -> Response:
    """An image to try: one of the bundle's golden images, or of those the server was started with."""
    page: Page = request.app.state.page
    number = request.path_params["number"]
    files = sample_files(page.service.model, page.service.settings)
    if not (number.isascii() and number.isdigit() and len(number) < 6 and int(number) < len(files)):
        raise RequestError("not_found", f"there is no such sample; {len(files)} are counted from 0")
    path = files[int(number)]
    try:
        content = await run_in_threadpool(path.read_bytes)
    except OSError:
        raise RequestError("not_found", f"sample {number} is no longer there") from None
    return Response(content, media_type=CONTENT_TYPES.get(path.suffix.lower(), "application/octet-stream"))


async def root() -> RedirectResponse:
    """The documentation."""
    return RedirectResponse("docs")

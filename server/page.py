"""What the page's routes do with HTTP: its files, the model card, the last minute's traffic, images to try."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from oodguard.core.codes import Code
from oodguard.core.formats import format_of
from oodguard.server.card import ModelCard, ShadowCard, card_of
from oodguard.server.errors import RequestError
from oodguard.server.model import ServedModel
from oodguard.server.numerals import whole
from oodguard.server.problems import documented
from oodguard.server.routes import Route
from oodguard.server.sample_images import SampleImages
from oodguard.server.serving import Serving
from oodguard.server.settings import ServeSettings
from oodguard.server.shadow import Shadow
from oodguard.server.traffic import Traffic, TrafficReport

STATIC = Path(__file__).with_name("static")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
# Browsers keep these files and ask for them each time: the answer is then 304 without a body.
REVALIDATE = {"cache-control": "no-cache"}


@dataclass(frozen=True)
class Asset:
    """A file of the page, read once."""

    content: bytes
    kind: str
    etag: str

    @classmethod
    def load(cls, path: Path) -> Asset:
        """Read a file."""
        content = path.read_bytes()
        return cls(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:20]}"')

    async def serve(self, request: Request) -> Response:
        """The file, or 304 when the browser has it."""
        headers = {**REVALIDATE, "etag": self.etag}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers={**headers, "content-type": self.kind})


def static_routes(name: str) -> Iterator[Route]:
    """The routes of `page` or of `docs`: its HTML and the files that it loads.

    They are open, because they hold nothing about the model; what they show is fetched with a key.
    """
    for path in sorted(STATIC.glob(f"{name}*")):
        if path.suffix == ".html":
            route, family = "/" if name == "page" else f"/{name}", None
        else:
            route, family = f"/static/{path.name}", "/static/*"
        endpoint = Asset.load(path).serve
        yield Route(path=route, endpoint=endpoint, open=True, family=family, docs=None)


class PageRoutes:
    """The page, and what it fetches."""

    def __init__(
        self, settings: ServeSettings, serving: Serving, traffic: Traffic, shadow: Shadow | None = None
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._traffic = traffic
        self._shadow = shadow
        self._samples = SampleImages(settings)
        # A replaced model must not be kept alive by its card.
        self._of: weakref.ref[ServedModel] | None = None
        self._beside: ShadowCard | None = None
        self._card = b""

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        refused = {401: documented("API key needed")}
        image = {"description": "The image", "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
        number = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
        common = {"tags": ["page"], "responses": refused}
        sample = {
            "tags": ["page"],
            "response_class": Response,
            "responses": {200: image, 404: documented("There is no such sample"), **refused},
            "openapi_extra": {"parameters": [number]},
        }
        return (
            *static_routes("page"),
            Route(path="/model", endpoint=self.model_card, docs={**common, "response_model": ModelCard}),
            Route(path="/traffic", endpoint=self.traffic, docs={**common, "response_model": TrafficReport}),
            Route(path="/samples/{number}", endpoint=self.sample, family="/samples/*", docs=sample),
        )

    async def model_card(self, _: Request) -> Response:
        """The model card: classes, scores, their thresholds at many target acceptances, and what export checked."""
        model = self._serving.model
        report = self._shadow.report if self._shadow else None
        shadow = ShadowCard(state=report.state, share=report.share, model=report.model) if report else None
        if self._of is None or self._of() is not model or self._beside != shadow:
            self._card = card_of(model, self._settings, shadow).model_dump_json().encode()
            self._of, self._beside = weakref.ref(model), shadow
        return Response(self._card, media_type="application/json")

    async def traffic(self, _: Request) -> Response:
        """The last minute: images per second, share flagged, latency, queue."""
        return Response(self._traffic.report().model_dump_json(), media_type="application/json")

    async def sample(self, request: Request) -> Response:
        """An image to try: one of the bundle's golden images, or one that the server was started with."""
        number = request.path_params["number"]
        with self._serving.model.lease() as model:
            count = self._samples.count(model)
            place = whole(number)
            if place is None or place >= count:
                raise RequestError(Code.NOT_FOUND, f"there is no such sample; {count} are counted from 0")
            content = await run_in_threadpool(self._samples.read, model, place)
        kind = format_of(content) if content else None
        if content is None or kind is None:
            raise RequestError(Code.NOT_FOUND, f"sample {number} is no longer there")
        return Response(content, media_type=kind.content_type)


async def root(_: Request) -> RedirectResponse:
    """The documentation."""
    return RedirectResponse("docs")


# Where there is no page.
REDIRECT = Route(path="/", endpoint=root, open=True, docs=None)

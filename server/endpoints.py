"""What the routes of the server's own protocol do with HTTP: `/predict`, health, metrics, administration."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from oodguard.core.answers import ModelRef, PredictRequest, PredictResponse, Timing
from oodguard.core.codes import Code
from oodguard.core.problems import problem, summary_of
from oodguard.core.targets import TARGET_NAMES, Targets
from oodguard.server.call import SHORTEST_MS, SOURCE_HEADER, Entrance, while_connected
from oodguard.server.errors import ReloadRefused, RequestError
from oodguard.server.health import Probes
from oodguard.server.intake import read_images
from oodguard.server.judging import NOTHING, Judge
from oodguard.server.numerals import decimal
from oodguard.server.problems import documented, problem_response
from oodguard.server.routes import Route
from oodguard.server.serving import Serving
from oodguard.server.shadow import Shadow
from oodguard.server.stages import STAGES
from oodguard.server.watch import ReloadableKeys


@dataclass(frozen=True)
class Predict:
    """`POST /predict`."""

    entrance: Entrance
    serving: Serving
    judge: Judge
    workers: ThreadPoolExecutor

    @property
    def routes(self) -> tuple[Route, ...]:
        """The route."""
        docs = {"responses": RESPONSES, "openapi_extra": BODY_AND_PARAMETERS, "tags": ["predict"]}
        return (Route(path="/predict", endpoint=self.predict, methods=("POST",), inference=True, docs=docs),)

    async def predict(self, request: Request) -> Response:
        """Classify images and say for each whether it is in or out of distribution."""
        with self.entrance.admit(request) as call:
            asked, top_k, source, explain = _parameters(request)
            images = await read_images(call, self.workers)
            with self.serving.model.lease() as model:
                work = self.judge.judge(
                    [image for image, _ in images],
                    model,
                    deadline=call.deadline,
                    asked=asked,
                    top_k=top_k,
                    source=source,
                    explain=explain,
                    read=call.elapsed,
                    caller=call.reservation.caller,
                )
                found = await while_connected(request, work)
        timing = Timing.of(**dict(zip(STAGES, found.stages, strict=True)), total=found.total)
        files = [file for _, file in images]
        answer = PredictResponse.of(
            found.outcomes, files, model=found.model, targets=found.targets, source=found.source, timing=timing
        )
        if not answer.predictions:
            return problem_response(summary_of(answer.errors), path=request.url.path)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def _parameters(request: Request) -> tuple[Mapping[str, float], int | None, str | None, bool]:
    """The targets that a request names, its `top_k` and `source`, and whether it asks for explanations."""
    header = request.headers.get(SOURCE_HEADER) or None
    if not request.scope["query_string"]:
        return NOTHING, None, header, False
    unknown = sorted(set(request.query_params) - {*TARGET_NAMES, "top_k", "source", "explain"})
    if unknown:
        raise RequestError(
            Code.BAD_PARAMETER,
            f"unknown parameter {unknown[0][:80]!r}; there are {', '.join(TARGET_NAMES)}, top_k, source and explain",
        )
    top_k = _number(request, "top_k")
    if top_k is not None and (top_k != int(top_k) or top_k < 1):
        raise RequestError(Code.BAD_PARAMETER, f"top_k must be a whole number of at least 1; got {top_k:g}")
    sources = request.query_params.getlist("source")
    if len(sources) > 1:
        raise RequestError(Code.BAD_PARAMETER, "source must be one name")
    source = sources[0] if sources else header
    asked = {name: value for name in TARGET_NAMES if (value := _number(request, name)) is not None}
    return asked, None if top_k is None else int(top_k), source, _flag(request, "explain")


def _flag(request: Request, name: str) -> bool:
    values = request.query_params.getlist(name)
    if values not in ([], ["true"], ["false"]):
        raise RequestError(Code.BAD_PARAMETER, f"{name} must be true or false; got {', '.join(values)[:80]!r}")
    return values == ["true"]


def _number(request: Request, name: str) -> float | None:
    values = request.query_params.getlist(name)
    if not values:
        return None
    value = decimal(values[0])
    if len(values) > 1 or value is None or not math.isfinite(value):
        raise RequestError(Code.BAD_PARAMETER, f"{name} must be one number; got {', '.join(values)[:80]!r}")
    return value


class Referred(Protocol):
    """A model that has a name and a version."""

    @property
    def ref(self) -> ModelRef: ...  # noqa: D102


class Reloading(Protocol):
    """What serves a model, and can load another: a process, or all workers together."""

    @property
    def model(self) -> Referred: ...  # noqa: D102
    async def reload(self) -> Referred: ...  # noqa: D102


class Rendered(Protocol):
    """The metrics of a process, or of all workers."""

    def render(self) -> bytes: ...  # noqa: D102


@dataclass(frozen=True)
class HealthRoutes:
    """What probes ask, on both ports."""

    health: Probes
    serving: Reloading

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        hangs = {503: documented("An inference hangs: restart the process")}
        not_ready = {503: documented("Not ready, and why")}
        return (
            Route(path="/health/live", endpoint=self.live, open=True, docs={"tags": ["health"], "responses": hangs}),
            Route(
                path="/health/ready", endpoint=self.ready, open=True, docs={"tags": ["health"], "responses": not_ready}
            ),
        )

    async def live(self, request: Request) -> Response:
        """200 while the process works; 503 when it should be restarted."""
        dead = self.health.dead
        if dead:
            return problem_response(problem(Code.NOT_READY, dead), path=request.url.path)
        return JSONResponse({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """200 when traffic may be sent here: the golden images agreed, nothing hangs, no shutdown has begun."""
        reason = self.health.not_ready
        if reason is not None:
            return problem_response(problem(Code.NOT_READY, reason), path=request.url.path)
        return JSONResponse({"status": "ready", "model": self.serving.model.ref.model_dump()})


@dataclass(frozen=True)
class AdminRoutes:
    """What only the private port has."""

    metrics: Rendered
    serving: Reloading
    keys: ReloadableKeys
    shadow: Shadow | None
    workers: int = 1

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes."""
        return (
            Route(path="/metrics", endpoint=self.scrape, open=True),
            Route(path="/admin/reload", endpoint=self.reload, methods=("POST",), admin=True),
            Route(path="/admin/shadow", endpoint=self.shadow_state),
        )

    async def scrape(self, _: Request) -> Response:
        """Prometheus metrics."""
        return Response(self.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def reload(self, _: Request) -> Response:
        """Load the bundle folder and the key file again; 200 with the model now served, 422 when one was refused.

        The shadow's bundle is loaded, too; the answer says how that went, and never fails for it.
        """
        self.keys.reload()
        model = await self.serving.reload()
        answer: dict[str, Any] = {"status": "swapped", "model": model.ref.model_dump()}
        if self.workers > 1:
            # All of them: `reload` returns when the last one serves the new model.
            answer["workers"] = self.workers
        if self.shadow is not None:
            with contextlib.suppress(ReloadRefused):
                await self.shadow.reload()
            answer["shadow"] = self.shadow.report.model_dump()
        return JSONResponse(answer)

    async def shadow_state(self, _: Request) -> Response:
        """What the shadow does, with which model, and why it has failed; 404 without a shadow."""
        if self.shadow is None:
            raise RequestError(Code.NOT_FOUND, "this server has no shadow; name a bundle with --shadow")
        return JSONResponse(self.shadow.report.model_dump())


async def openapi(request: Request) -> Response:
    """The OpenAPI document of the application."""
    return JSONResponse(await run_in_threadpool(request.app.state.document))


def _parameter(name: str, description: str, *, place: str = "query", **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "description": description, "schema": schema}


OPENAPI = Route(path="/openapi.json", endpoint=openapi, docs=None)
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": PredictResponse, "description": "Verdicts in request order; `errors` lists images that failed."},
    400: documented("No image, or a body that cannot be read"),
    401: documented("API key needed"),
    408: documented("The body came too slowly"),
    413: documented("Body, image or number of images too large"),
    415: documented("Unsupported content or image type"),
    422: documented("Image cannot be decoded, or a parameter is out of range"),
    429: documented("No room now; Retry-After says when"),
    500: documented("Inference failed"),
    503: documented("Not ready"),
    504: documented("Not answered in time"),
}
BODY_AND_PARAMETERS = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": PredictRequest.model_json_schema()},
        },
    },
    "parameters": [
        *(
            _parameter(name, str(field.description), type="number", exclusiveMinimum=0, exclusiveMaximum=1)
            for name, field in Targets.model_fields.items()
        ),
        _parameter("top_k", "Classes to list.", type="integer", minimum=1),
        _parameter("source", "Whose calibration judges: a source of the bundle. Wins over the header.", type="string"),
        _parameter("X-Oodguard-Source", "The same, for a proxy or a camera to set.", place="header", type="string"),
        _parameter(
            "explain",
            "Say for each image which scores decided, and name the nearest training photos.",
            type="boolean",
            default=False,
        ),
        _parameter(
            "X-Request-Timeout-Ms",
            "Milliseconds this request may take; the server bounds it.",
            place="header",
            type="integer",
            minimum=SHORTEST_MS,
        ),
        _parameter(
            "X-Request-Id",
            "Returned and written to the log; one is made when it is missing or odd.",
            place="header",
            type="string",
        ),
    ],
}

"""What each route does with HTTP; the logic is in `service`."""

from __future__ import annotations

import math
import time

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from oodguard.core.answers import PredictResponse
from oodguard.core.problems import Problem, problem, summary_of
from oodguard.server.call import SHORTEST_MS, admitted, while_connected
from oodguard.server.errors import RequestError
from oodguard.server.intake import read_payloads
from oodguard.server.problems import PROBLEM_JSON, problem_response
from oodguard.server.service import GuardService


def service_of(request: Request) -> GuardService:
    """The service of the application a request came to."""
    service: GuardService = request.scope["app"].state.service
    return service


async def predict(request: Request) -> Response:
    """Classify images and say for each whether it is in or out of distribution."""
    service = service_of(request)
    with admitted(request, service) as call:
        accept, top_k = _parameters(request)
        payloads = await read_payloads(request, service, call.reservation)
        answer = await while_connected(
            request,
            service.predict(
                payloads,
                deadline=call.deadline,
                accept=accept,
                top_k=top_k,
                read=time.monotonic() - call.started,
            ),
        )
    if not answer.predictions:
        return problem_response(summary_of(answer.errors), path=request.url.path)
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def _parameters(request: Request) -> tuple[float | None, int | None]:
    if not request.scope["query_string"]:
        return None, None
    unknown = sorted(set(request.query_params) - {"accept", "top_k"})
    if unknown:
        raise RequestError("bad_parameter", f"unknown parameter {unknown[0][:80]!r}; there are accept and top_k")
    top_k = _number(request, "top_k")
    if top_k is not None and (top_k != int(top_k) or top_k < 1):
        raise RequestError("bad_parameter", f"top_k must be a whole number of at least 1; got {top_k:g}")
    return _number(request, "accept"), None if top_k is None else int(top_k)


def _number(request: Request, name: str) -> float | None:
    values = request.query_params.getlist(name)
    if not values:
        return None
    try:
        value = float(values[0])
    except ValueError:
        value = math.nan
    if len(values) > 1 or not math.isfinite(value):
        raise RequestError("bad_parameter", f"{name} must be one number; got {', '.join(values)[:80]!r}")
    return value


async def live(request: Request) -> Response:
    """200 while the process works; 503 when it should be restarted."""
    dead = service_of(request).dead
    if dead:
        return problem_response(problem("not_ready", dead), path=request.url.path)
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> Response:
    """200 when traffic may be sent here: the golden images were answered as promised, nothing hangs, no shutdown."""
    service = service_of(request)
    if service.not_ready is not None:
        return problem_response(problem("not_ready", service.not_ready), path=request.url.path)
    manifest = service.model.manifest
    return JSONResponse({"status": "ready", "model": {"name": manifest.name, "version": manifest.version}})


async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(service_of(request).metrics.render(), media_type=CONTENT_TYPE_LATEST)


async def reload(request: Request) -> Response:
    """Load the bundle folder again, and the key file; 200 with the model now served, 422 when it was refused."""
    service = service_of(request)
    service.reload_keys()
    model = await service.reload()
    return JSONResponse(
        {"status": "swapped", "model": {"name": model.manifest.name, "version": model.manifest.version}}
    )


PREDICT_RESPONSES: dict[int | str, dict[str, object]] = {
    200: {"model": PredictResponse, "description": "Verdicts in request order; `errors` lists images that failed."},
    **{
        status: {"model": Problem, "description": text, "content": {PROBLEM_JSON: {}}}
        for status, text in (
            (400, "No image, or a body that cannot be read"),
            (401, "API key needed"),
            (408, "The body came too slowly"),
            (413, "Body, image or number of images too large"),
            (415, "Unsupported content or image type"),
            (422, "Image cannot be decoded, or a parameter is out of range"),
            (429, "No room now; Retry-After says when"),
            (500, "Inference failed"),
            (503, "Not ready"),
            (504, "Not answered in time"),
        )
    },
}
PREDICT_BODY = {
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
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "additionalProperties": False,
                    "properties": {
                        "images": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "description": "base64 or a base64 data: URI"},
                        }
                    },
                }
            },
        },
    },
    "parameters": [
        {
            "name": "accept",
            "in": "query",
            "description": "Target acceptance of in-distribution images for this request, e.g. 0.99.",
            "schema": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        },
        {
            "name": "top_k",
            "in": "query",
            "description": "Classes to list.",
            "schema": {"type": "integer", "minimum": 1},
        },
        {
            "name": "X-Request-Timeout-Ms",
            "in": "header",
            "description": "Milliseconds this request may take; the server bounds it.",
            "schema": {"type": "integer", "minimum": SHORTEST_MS},
        },
        {
            "name": "X-Request-Id",
            "in": "header",
            "description": "Returned and written to the log; one is made when it is missing or odd.",
            "schema": {"type": "string"},
        },
    ],
}

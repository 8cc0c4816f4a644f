"""The routes of the Open Inference Protocol under `/v2`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from oodguard.core.errors import ImageError
from oodguard.core.frozen import Frozen
from oodguard.core.problems import problem
from oodguard.server import open_inference as oip
from oodguard.server.batcher import Answer
from oodguard.server.call import Call, admitted, while_connected
from oodguard.server.errors import RequestError
from oodguard.server.intake import JSON_ON_LOOP, read_body
from oodguard.server.model import ServedModel
from oodguard.server.problems import problem_response
from oodguard.server.service import GuardService, Payload
from oodguard.server.stages import Outcome, Stages

HEADER_LENGTH = "Inference-Header-Content-Length"


class V2Error(Frozen):
    """An error under `/v2`."""

    error: str


def _service(request: Request) -> GuardService:
    service: GuardService = request.app.state.service
    return service


def _require_model(request: Request, model: ServedModel) -> None:
    name, version = request.path_params["name"], request.path_params.get("version")
    manifest = model.manifest
    if name != manifest.name or version not in (None, manifest.version):
        raise RequestError("not_found", f"this server has {manifest.name} version {manifest.version}")


async def server_metadata() -> dict[str, Any]:
    """What this server is."""
    return {"name": "oodguard", "version": "2", "extensions": ["binary_tensor_data"]}


async def live(request: Request) -> Response:
    """200 while the process works."""
    dead = _service(request).dead
    return JSONResponse({"live": dead is None}, status_code=503 if dead else 200)


async def ready(request: Request) -> Response:
    """200 when traffic may be sent here."""
    reason = _service(request).not_ready
    return JSONResponse({"ready": reason is None}, status_code=503 if reason else 200)


async def model_metadata(request: Request) -> Response:
    """Inputs and outputs of the model."""
    model = _service(request).model
    _require_model(request, model)
    return JSONResponse(oip.metadata(model.manifest))


async def model_ready(request: Request) -> Response:
    """200 when the model may be asked."""
    service = _service(request)
    _require_model(request, service.model)
    if service.not_ready:
        return problem_response(problem("not_ready", service.not_ready), path=request.url.path)
    return JSONResponse({"name": service.model.manifest.name, "ready": True})


async def infer(request: Request) -> Response:
    """Answer a tensor of encoded images (BYTES) or of pixels (UINT8)."""
    service = _service(request)
    with admitted(request, service) as call, service.model.lease() as model:
        _require_model(request, model)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError("unsupported_body", "compressed bodies are not supported")
        body = await read_body(request, service.settings, call.reservation)
        length = request.headers.get(HEADER_LENGTH)
        if len(body) > JSON_ON_LOOP:
            loop = asyncio.get_running_loop()
            message, images = await loop.run_in_executor(service.workers, oip.parse, body, length, model.manifest)
        else:
            message, images = oip.parse(body, length, model.manifest)
        tolerant = oip.check_outputs(message, model.manifest)
        accept = service.accept(oip.accept_of(message), model)
        if not 0 < len(images) <= service.settings.max_files:
            raise RequestError("too_many_files", f"send 1 to {service.settings.max_files} images")
        call.reservation.grow(images=len(images))
        read = time.monotonic() - call.started
        started = time.monotonic()
        outcomes = await while_connected(request, _measure(service, model, images, call))
        judging = time.monotonic()
        answers = [outcome for outcome, _ in outcomes]
        failed = next(((i, a) for i, a in enumerate(answers) if isinstance(a, ImageError)), None)
        usable = tolerant and not all(isinstance(a, ImageError) for a in answers)
        arrays = _arrays(service, model, images, answers, accept) if usable or not failed else {}
        service.record(Stages(outcomes, read=read, started=started, judging=judging, ended=time.monotonic()), model)
    if failed and not usable:
        index, error = failed
        return problem_response(problem(error.code, str(error), index=index), path=request.url.path)
    content, json_length = oip.encode(message, model.manifest, arrays)
    if json_length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(json_length)})


async def _measure(service: GuardService, model: ServedModel, images: list[oip.Image], call: Call) -> list[Outcome]:
    work = [
        image
        if isinstance(image, np.ndarray)
        else Payload(b"", error=image)
        if isinstance(image, ImageError)
        else Payload(image)
        for image in images
    ]
    return await service.measure(model, work, deadline=call.deadline)


def _arrays(
    service: GuardService,
    model: ServedModel,
    images: list[oip.Image],
    answers: list[Answer | ImageError],
    accept: float,
) -> dict[str, oip.Array]:
    """The outputs `[N, ...]`; the row of an image that failed is empty text and numbers that are no numbers."""
    manifest, count = model.manifest, len(answers)
    labels, errors = [""] * count, [""] * count
    is_ood = np.zeros(count, dtype=bool)
    fused, threshold = (np.full(count, np.nan, dtype=np.float32) for _ in range(2))
    probabilities = np.full((count, len(manifest.classes)), np.nan, dtype=np.float32)
    scores = np.full((count, len(manifest.scores)), np.nan, dtype=np.float32)
    for row, answer in enumerate(answers):
        if isinstance(answer, ImageError):
            service.metrics.rejected[answer.code].inc()
            errors[row] = f"{answer.code}: {answer}"
            is_ood[row] = True
            continue
        verdict = manifest.verdict(answer.measured, answer.row, accept=accept, top_k=1)
        labels[row], is_ood[row] = verdict.label, verdict.is_ood
        fused[row], threshold[row] = verdict.ood_score, verdict.threshold
        probabilities[row] = answer.measured.probabilities[answer.row]
        scores[row] = answer.measured.scores[answer.row]
        image = images[row]
        service.answered(image if isinstance(image, bytes) else b"", verdict, model=model, accept=accept)
    return {
        "label": oip.texts(labels),
        "is_ood": is_ood,
        "ood_score": fused,
        "threshold": threshold,
        "probabilities": probabilities,
        "scores": scores,
        "error": oip.texts(errors),
    }


def inlined(schema: Any, definitions: dict[str, Any] | None = None) -> Any:
    """A JSON schema with its `$defs` put where they are used: inside an OpenAPI document they would point nowhere."""
    if isinstance(schema, list):
        return [inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        return inlined(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    return {key: inlined(part, definitions) for key, part in schema.items() if key != "$defs"}


def add_routes(app: FastAPI) -> None:
    """Add the protocol's routes."""
    manifest = app.state.service.model.manifest
    served = {"name": manifest.name, "version": manifest.version}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": V2Error} for status in (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
    }
    problems: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready"}}
    routes: list[tuple[str, Callable[..., Any], str, dict[int | str, dict[str, Any]]]] = [
        ("/v2", server_metadata, "GET", {}),
        ("/v2/health/live", live, "GET", problems),
        ("/v2/health/ready", ready, "GET", problems),
    ]
    for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            (prefix, model_metadata, "GET", {**errors}),
            (f"{prefix}/ready", model_ready, "GET", {**errors}),
            (f"{prefix}/infer", infer, "POST", {**errors}),
        ]
    for path, endpoint, method, responses in routes:
        versioned = "_versioned" if "{version}" in path else ""
        extra: dict[str, Any] = {}
        if "{name}" in path:
            names = ["name", "version"] if versioned else ["name"]
            extra["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": served[name]}
                for name in names
            ]
        if endpoint is infer:
            extra["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": inlined(oip.InferRequest.model_json_schema())}},
            }
        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            responses=responses,
            tags=["open inference protocol"],
            openapi_extra=extra or None,
            operation_id=f"v2_{endpoint.__name__}{versioned}",
        )

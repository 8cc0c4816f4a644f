"""The routes of the Open Inference Protocol under `/v2`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from oodguard.core.codes import Code
from oodguard.core.frozen import Frozen
from oodguard.core.problems import Problem, problem
from oodguard.server import open_inference as oip
from oodguard.server.call import SOURCE_HEADER, Entrance, while_connected
from oodguard.server.health import Health
from oodguard.server.inference import Inference
from oodguard.server.intake import parsed, read_body
from oodguard.server.judging import Judge
from oodguard.server.model import ServedModel
from oodguard.server.problems import problem_response
from oodguard.server.routes import Endpoint, Route
from oodguard.server.serving import Serving

HEADER_LENGTH = "Inference-Header-Content-Length"
# What metrics and logs call every route below a model.
FAMILY = "/v2/models/*"


class V2Error(Frozen):
    """An error under `/v2`."""

    error: str


@dataclass(frozen=True)
class OpenInference:
    """The protocol's routes for one server."""

    entrance: Entrance
    serving: Serving
    health: Health
    judge: Judge
    workers: ThreadPoolExecutor

    @property
    def routes(self) -> tuple[Route, ...]:
        """The server's routes, then those of its model, by name alone and by name and version."""
        not_ready = {503: {"description": "Not ready"}}
        return (
            Route(path="/v2", endpoint=self.server_metadata, docs=_docs("server_metadata", {})),
            Route(path="/v2/health/live", endpoint=self.live, open=True, docs=_docs("live", not_ready)),
            Route(path="/v2/health/ready", endpoint=self.ready, open=True, docs=_docs("ready", not_ready)),
            *self._model_routes("/v2/models/{name}", "name"),
            *self._model_routes("/v2/models/{name}/versions/{version}", "name", "version"),
        )

    def _model_routes(self, prefix: str, *parameters: str) -> tuple[Route, ...]:
        served = self.serving.model.ref.model_dump()
        statuses = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
        responses: dict[int | str, dict[str, Any]] = {status: {"model": V2Error} for status in statuses}
        named = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": served[name]}
            for name in parameters
        ]
        body = {
            "required": True,
            "content": {"application/json": {"schema": inlined(oip.InferRequest.model_json_schema())}},
        }
        suffix = "_versioned" if "version" in parameters else ""

        def route(path: str, endpoint: Endpoint, *, inference: bool = False, **extra: Any) -> Route:
            return Route(
                path=path,
                endpoint=endpoint,
                methods=("POST",) if inference else ("GET",),
                family=FAMILY,
                inference=inference,
                docs=_docs(endpoint.__name__ + suffix, responses, parameters=named, **extra),
            )

        return (
            route(prefix, self.model_metadata),
            route(f"{prefix}/ready", self.model_ready),
            route(f"{prefix}/infer", self.infer, inference=True, requestBody=body),
        )

    async def server_metadata(self, _: Request) -> Response:
        """What this server is."""
        return JSONResponse({**oip.SERVER, "extensions": ["binary_tensor_data"]})

    async def live(self, _: Request) -> Response:
        """200 while the process works."""
        dead = self.health.dead
        return JSONResponse({"live": dead is None}, status_code=503 if dead else 200)

    async def ready(self, _: Request) -> Response:
        """200 when traffic may be sent here."""
        reason = self.health.not_ready
        return JSONResponse({"ready": reason is None}, status_code=503 if reason else 200)

    async def model_metadata(self, request: Request) -> Response:
        """Inputs and outputs of the model."""
        model = self.serving.model
        _require_model(request, model)
        return JSONResponse(oip.metadata(model.manifest))

    async def model_ready(self, request: Request) -> Response:
        """200 when the model may be asked."""
        model, reason = self.serving.model, self.health.not_ready
        _require_model(request, model)
        if reason:
            return problem_response(problem(Code.NOT_READY, reason), path=request.url.path)
        return JSONResponse({"name": model.ref.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """Answer a tensor of encoded images (BYTES) or of pixels (UINT8)."""
        with self.entrance.admit(request) as call:
            _require_model(request, self.serving.model)
            body = await read_body(call, self.workers)
            with self.serving.model.lease() as model:
                # Another model may have come while the body arrived.
                _require_model(request, model)
                manifest, length = model.manifest, request.headers.get(HEADER_LENGTH)
                parse = partial(oip.parse, header_length=length, manifest=manifest, settings=call.settings)
                message, images = await parsed(body, parse, self.workers)
                source, tolerant = request.headers.get(SOURCE_HEADER) or None, oip.check_outputs(message, manifest)
                inference = Inference(message, images, tolerant=tolerant, source=source)
                call.hold(len(images))
                work = inference.judged(
                    self.judge, model, deadline=call.deadline, read=call.elapsed, caller=call.reservation.caller
                )
                found = await while_connected(request, work)
        if isinstance(found, Problem):
            return problem_response(found, path=request.url.path)
        content, json_length = oip.encode(message, manifest, found)
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(json_length)})


def _require_model(request: Request, model: ServedModel) -> None:
    oip.require_model(model.ref, request.path_params["name"], request.path_params.get("version"))


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


def _docs(name: str, responses: dict[Any, Any], **extra: Any) -> dict[str, Any]:
    return {
        "operation_id": f"v2_{name}",
        "responses": responses,
        "tags": ["open inference protocol"],
        "openapi_extra": extra or None,
    }

"""The application: routes, error handling and lifetime around one `GuardService`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from oodguard.export.contract import load_manifest
from oodguard.server import endpoints
from oodguard.server.contract import Problem
from oodguard.server.engines.base import Engine
from oodguard.server.engines.ort import OrtEngine
from oodguard.server.errors import problem, problem_of
from oodguard.server.metrics import Metrics
from oodguard.server.service import GuardService
from oodguard.server.settings import ServeSettings
from oodguard.training.errors import OodguardError

log = logging.getLogger("oodguard.server")


def create_app(settings: ServeSettings, *, engine: Engine | None = None) -> FastAPI:
    """The application that serves a bundle.

    ```python
    app = create_app(ServeSettings(bundle=Path("bundles/photos")))
    ```

    Verifies the bundle before anything else: raises `FormatError`, in one line, when a hash or the schema does not
    fit. Another `engine` than the embedded ONNX Runtime may be given.
    """
    manifest = load_manifest(settings.bundle)
    metrics = Metrics(manifest)
    running = engine or OrtEngine(settings.bundle, manifest, device=settings.device, threads=settings.threads)
    service = GuardService(settings.bundle, manifest, running, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.check()
        if service.not_ready:
            log.error("not ready: %s", service.not_ready)
        yield
        await service.close()

    app = FastAPI(
        title="oodguard",
        description=f"Guarded classifier {manifest.name}: a label and an out-of-distribution verdict for each image.",
        version=manifest.version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    _add_routes(app)
    _add_errors(app)
    _count_requests(app, metrics)
    return app


def _add_routes(app: FastAPI) -> None:
    app.add_api_route(
        "/predict",
        endpoints.predict,
        methods=["POST"],
        responses=endpoints.PREDICT_RESPONSES,
        openapi_extra=endpoints.PREDICT_BODY,
        tags=["predict"],
    )
    app.add_api_route("/health/live", endpoints.live, tags=["health"])
    app.add_api_route(
        "/health/ready",
        endpoints.ready,
        tags=["health"],
        responses={503: {"model": Problem, "description": "Not ready, and why"}},
    )
    app.add_api_route("/metrics", endpoints.metrics, tags=["operations"])
    app.add_api_route("/docs", endpoints.docs, include_in_schema=False)
    app.add_api_route("/", endpoints.root, include_in_schema=False)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(OodguardError)
    async def domain(request: Request, error: OodguardError) -> Response:
        found = problem_of(error)
        endpoints.service_of(request).metrics.rejected.labels(found.code).inc()
        return endpoints.problem_response(found)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_body")
        response = endpoints.problem_response(problem(code, f"{request.method} {request.url.path}: {error.detail}"))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.exception("unexpected error on %s", request.url.path, exc_info=error)
        return endpoints.problem_response(problem("internal", "the server failed on this request; its log says more"))


def _count_requests(app: FastAPI, metrics: Metrics) -> None:
    routes = {"/predict", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json", "/"}

    @app.middleware("http")
    async def count(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        status = 500
        try:
            response = await answer(request)
            status = response.status_code
            return response
        finally:
            route = request.url.path if request.url.path in routes else "other"
            metrics.requests.labels(route, str(status)).inc()

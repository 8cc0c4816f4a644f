"""The applications: the public one, and the private one with metrics and administration, around one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from oodguard.core.errors import OodguardError
from oodguard.core.problems import Problem, problem, problem_of
from oodguard.server import endpoints, page, v2
from oodguard.server.engines.base import Engine
from oodguard.server.frame import MODEL_ROUTE, SAMPLE_ROUTE, STATIC_ROUTE, Frame
from oodguard.server.metrics import Metrics
from oodguard.server.problems import PROBLEM_JSON, error_response, problem_response
from oodguard.server.service import GuardService
from oodguard.server.settings import ServeSettings
from oodguard.server.watch import watch, watch_remote

HEALTH = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
PAGE = ("/", "/model", "/traffic", SAMPLE_ROUTE, STATIC_ROUTE)
# Files that say nothing about the model; what they show is fetched with a key.
SHELL = ("/", "/docs", STATIC_ROUTE)
PUBLIC = ("/predict", "/docs", "/openapi.json", "/v2", MODEL_ROUTE, *PAGE, *HEALTH)
PRIVATE = ("/metrics", "/admin/reload", "/health/live", "/health/ready")


@dataclass(frozen=True)
class Gateway:
    """Two ASGI applications on one service; the lifetime of `public` is the service's."""

    service: GuardService
    public: Frame
    private: Frame


def create_gateway(settings: ServeSettings, *, engine: Engine | None = None) -> Gateway:
    """The applications that serve a bundle.

    ```python
    gateway = create_gateway(ServeSettings(bundle=Path("bundles/photos")))
    ```

    Verifies the bundle before anything else: raises `FormatError`, in one line, when a hash or the schema does not
    fit. Another `engine` than the one the settings name may be given.
    """
    service = GuardService(settings, Metrics(), engine=engine)
    return Gateway(
        service,
        public=Frame(
            _public(service),
            service,
            routes=PUBLIC,
            open_routes=(*HEALTH, *SHELL),
            direct={("POST", "/predict"): endpoints.predict},
        ),
        private=Frame(_private(service), service, routes=PRIVATE, open_routes=(*HEALTH, "/metrics")),
    )


def _public(service: GuardService) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        beside = [asyncio.create_task(one(service)) for one in (watch, watch_remote) if service.settings.watch]
        if shown is not None:
            beside.append(asyncio.create_task(shown.traffic.run()))
        yield
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await service.close()

    manifest = service.model.manifest
    app = _application(
        service,
        title="oodguard",
        description=f"Guarded classifier {manifest.name}: a label and an out-of-distribution verdict for each image.",
        version=manifest.version,
        lifespan=lifespan,
    )
    app.add_api_route(
        "/predict",
        endpoints.predict,
        methods=["POST"],
        responses=endpoints.PREDICT_RESPONSES,
        openapi_extra=endpoints.PREDICT_BODY,
        tags=["predict"],
    )
    _add_health(app)
    v2.add_routes(app)
    page.add_docs(app)
    shown = page.add_page(app, service) if service.settings.page else None
    if shown is None:
        page.add_redirect(app)
    return app


def _private(service: GuardService) -> FastAPI:
    app = _application(service, title="oodguard administration", openapi_url=None)
    _add_health(app)
    app.add_api_route("/metrics", endpoints.metrics)
    app.add_api_route("/admin/reload", endpoints.reload, methods=["POST"])
    return app


def _application(service: GuardService, **options: Any) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, **options)
    app.state.service = service

    @app.exception_handler(OodguardError)
    async def domain(request: Request, error: OodguardError) -> Response:
        response = error_response(error, path=request.url.path)
        service.metrics.rejected[problem_of(error).code].inc()
        return response

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        found = problem(code, f"{request.method} {request.url.path[:200]}: {error.detail}")
        response = problem_response(found, path=request.url.path)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        # Raised again after this answer, and logged by the frame.
        return error_response(error, path=request.url.path)

    return app


def _add_health(app: FastAPI) -> None:
    problems = {"model": Problem, "content": {PROBLEM_JSON: {}}}
    app.add_api_route(
        "/health/live",
        endpoints.live,
        tags=["health"],
        responses={503: {**problems, "description": "An inference hangs: restart the process"}},
    )
    app.add_api_route(
        "/health/ready",
        endpoints.ready,
        tags=["health"],
        responses={503: {**problems, "description": "Not ready, and why"}},
    )

"""A route, declared once: where it is, who may ask, how it is counted, and what the OpenAPI document says of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Served
from starlette.routing import compile_path

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True, kw_only=True)
class Route:
    """One route of an application; applications are made of nothing else, so none can be half known.

    ```python
    Route(path="/predict", endpoint=self.predict, methods=("POST",), inference=True, docs={"tags": ["predict"]})
    ```

    A route for GET answers HEAD, too. open: needs no API key; admin: needs one of that role. inference: timed as a
    whole, traced, and counted from 0. family: the label under which metrics and logs have the route, where several
    share one; default: the path. docs: what FastAPI's `add_api_route` takes beside (`openapi.py`); None keeps the route
    out of the OpenAPI document.
    """

    path: str
    endpoint: Endpoint
    methods: tuple[str, ...] = ("GET",)
    open: bool = False
    admin: bool = False
    inference: bool = False
    family: str | None = None
    docs: Mapping[str, Any] | None = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How metrics and logs name the route."""
        return self.family or self.path

    def add_to(self, app: Starlette) -> None:
        """Make an application serve the route."""
        served = Served(self.path, self.endpoint, methods=[*self.methods])
        # HEAD is the frame's.
        served.methods = set(self.methods)
        app.router.routes.append(served)


async def nowhere(request: Request) -> Response:
    """Nothing: the route that stands for all paths without one is never served."""
    raise NotImplementedError(request.url.path)


# What metrics and logs name a path that no route has: never what a caller typed.
OTHER = Route(path="other", endpoint=nowhere)


class RouteTable:
    """Finds the route of a path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for route in routes:
            if self.of(route.path) is not OTHER:
                raise ValueError(f"{route.path} is declared twice; one route may have several methods")
            if "{" in route.path:
                self._patterns.append((compile_path(route.path)[0], route))
            else:
                self._exact[route.path] = route

    def of(self, path: str) -> Route:
        """The route that has `path`, whatever the method; `OTHER` where none has it."""
        found = self._exact.get(path)
        if found is not None:
            return found
        return next((route for pattern, route in self._patterns if pattern.match(path)), OTHER)

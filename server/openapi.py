"""The OpenAPI document of an application, made from its routes.

FastAPI makes it, and nothing else: to import it takes a third of the time until a server is ready, and few callers ever
ask for the document.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oodguard.server.routes import Route


def document(routes: Iterable[Route], *, root_path: str, **about: Any) -> dict[str, Any]:
    """The document of these routes; about: its title, description and version."""
    from fastapi import FastAPI

    app = FastAPI(openapi_url=None, servers=[{"url": root_path}] if root_path else None, **about)
    for route in routes:
        if route.docs is not None:
            app.router.add_api_route(route.path, route.endpoint, methods=[*route.methods], **route.docs)
    return app.openapi()

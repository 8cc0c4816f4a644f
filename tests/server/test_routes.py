"""A route is declared once; from that it is served, counted, keyed and documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route as Served
from starlette.testclient import TestClient

from oodguard.core.manifest import load_manifest
from oodguard.server.app import Gateway, Parts, create_gateway, framed, private_routes, public_routes
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.keys import digest, new_key
from oodguard.server.routes import OTHER, Route, RouteTable
from oodguard.server.settings import ServeSettings

KEY = new_key()


@pytest.fixture(scope="module", params=[True, False], ids=["page", "no page"])
def gateway(bundle: Path, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    settings = ServeSettings(bundle=bundle, watch=False, page=request.param, key_hashes=f"a:{digest(KEY)}")
    gateway = create_gateway(settings, engine=FakeEngine(bundle, load_manifest(bundle)))
    yield gateway
    gateway.parts.decoders.close()


async def greet(request: Request) -> Response:
    """Greet somebody."""
    return PlainTextResponse(request.path_params["name"])


def client_of(parts: Parts, *more: Route) -> TestClient:
    return TestClient(framed([*public_routes(parts), *more], parts), raise_server_exceptions=False)


def series(parts: Parts) -> list[str]:
    return parts.metrics.render().decode().splitlines()


def test_one_declaration_is_enough(gateway: Gateway) -> None:
    parts = gateway.parts
    route = Route(path="/greetings/{name}", endpoint=greet, family="/greetings/*", inference=True)
    client = client_of(parts, route)
    assert 'oodguard_requests_total{route="/greetings/*",status="504"} 0.0' in series(parts)
    assert client.get("/greetings/ann").status_code == 401
    answer = client.get("/greetings/ann", headers={"x-api-key": KEY})
    assert (answer.text, answer.headers["x-content-type-options"]) == ("ann", "nosniff")
    assert client.post("/greetings/ann", headers={"x-api-key": KEY}).status_code == 405
    for status in (200, 401, 405):
        assert f'oodguard_requests_total{{route="/greetings/*",status="{status}"}} 1.0' in series(parts)
    assert 'oodguard_request_seconds_count{route="/greetings/*"} 1.0' in series(parts)
    document = client.get("/openapi.json", headers={"x-api-key": KEY}).json()
    assert document["paths"]["/greetings/{name}"]["get"]["description"] == "Greet somebody."


def test_a_route_may_be_open_and_undocumented(gateway: Gateway) -> None:
    client = client_of(gateway.parts, Route(path="/hello/{name}", endpoint=greet, open=True, docs=None))
    assert client.get("/hello/bob").text == "bob"
    assert 'oodguard_requests_total{route="/hello/{name}",status="200"} 1.0' in series(gateway.parts)
    assert not any("request_seconds" in line and "/hello" in line for line in series(gateway.parts))
    assert "/hello/{name}" not in client.get("/openapi.json", headers={"x-api-key": KEY}).json()["paths"]


def test_applications_serve_nothing_that_is_not_declared(gateway: Gateway) -> None:
    parts = gateway.parts
    for frame, routes in ((gateway.public, public_routes(parts)), (gateway.private, private_routes(parts))):
        declared = {(route.path, *sorted(route.methods)) for route in routes}
        served = [route for route in frame.app.routes if isinstance(route, Served)]
        assert len(served) == len(frame.app.routes)
        assert {(route.path, *sorted(route.methods or ())) for route in served} == declared
        table = RouteTable(routes)
        for route in routes:
            assert table.of(route.path.replace("{", "").replace("}", "")) is route


def test_what_metrics_and_logs_call_the_routes_is_published(gateway: Gateway) -> None:
    pages = {"/model", "/traffic", "/samples/*"} if gateway.parts.settings.page else set()
    assert {route.label for route in public_routes(gateway.parts)} == {
        *("/", "/predict", "/thumbnails/*", "/docs", "/openapi.json", "/static/*", "/health/live", "/health/ready"),
        *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/*"),
        *pages,
    }
    assert {route.label for route in private_routes(gateway.parts)} == {
        *("/metrics", "/admin/reload", "/admin/shadow", "/health/live", "/health/ready"),
    }


def test_the_document_of_the_api_names_every_route(gateway: Gateway) -> None:
    text = (Path(__file__).parents[2] / "docs" / "API.md").read_text(encoding="utf-8")
    for route in (*public_routes(gateway.parts), *private_routes(gateway.parts)):
        assert re.search(rf"`((GET|POST) )?{re.escape(route.label.rstrip('*'))}", text), route


def test_only_probes_metrics_and_the_files_of_the_pages_are_open(gateway: Gateway) -> None:
    routes = [*public_routes(gateway.parts), *private_routes(gateway.parts)]
    assert {route.label for route in routes if route.open} == {
        *("/", "/docs", "/static/*", "/metrics"),
        *("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"),
    }


def test_what_nobody_declared_is_other_and_needs_a_key(gateway: Gateway) -> None:
    client = client_of(gateway.parts)
    for path in ("/nope", "/static/nope.js", "/v2/models/discs/nope", "/predict/", "/%70redict%2f"):
        assert RouteTable(public_routes(gateway.parts)).of(path) is OTHER
        assert client.get(path).status_code == 401


def test_a_path_is_declared_once() -> None:
    one = Route(path="/greetings/{name}", endpoint=greet)
    with pytest.raises(ValueError, match="declared twice"):
        RouteTable([one, Route(path="/greetings/{name}", endpoint=greet, open=True)])

"""The applications: the public one, and the private one with metrics and administration, made of the same parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

from starlette.applications import Starlette

from oodguard.core.decoding import DecodingRoom
from oodguard.core.errors import EnvironmentProblem
from oodguard.server.admission import Admission
from oodguard.server.call import Entrance
from oodguard.server.cells import Cells, MappedCells, PrivateCells
from oodguard.server.decoders import Decoders
from oodguard.server.endpoints import OPENAPI, AdminRoutes, HealthRoutes, Predict
from oodguard.server.engines.base import Engine
from oodguard.server.frame import Frame
from oodguard.server.health import Health, Probes
from oodguard.server.judging import Judge
from oodguard.server.keys import KeyRing
from oodguard.server.metrics import Metrics
from oodguard.server.openapi import document
from oodguard.server.page import REDIRECT, PageRoutes, static_routes
from oodguard.server.pages import Pages
from oodguard.server.places import place_of
from oodguard.server.reception import Reception
from oodguard.server.routes import Route
from oodguard.server.sampling import Keeper, Sampler, Taker
from oodguard.server.serving import Serving
from oodguard.server.settings import ServeSettings
from oodguard.server.shadow import Shadow
from oodguard.server.shared_room import SharedRoom
from oodguard.server.thumbnails import ThumbnailRoutes
from oodguard.server.tracing import Tracing
from oodguard.server.traffic import Traffic
from oodguard.server.turns import Turns, Weights
from oodguard.server.v2 import OpenInference
from oodguard.server.watch import watch_bundle, watch_files, watch_remote
from oodguard.server.webhook import Webhook

if TYPE_CHECKING:
    from oodguard.server.rpc.rpc_server import RpcServer

ADMINISTRATION = "oodguard administration"


@dataclass(frozen=True)
class Parts:
    """What a server consists of; each route and each module gets only those that it needs."""

    settings: ServeSettings
    metrics: Metrics
    keys: KeyRing
    admission: Admission
    serving: Serving
    health: Health
    decoders: Decoders
    judge: Judge
    traffic: Traffic
    sampler: Sampler | None
    shadow: Shadow | None
    tracing: Tracing | None

    @property
    def reception(self) -> Reception:
        """What every application and the gRPC port do around a request."""
        return Reception(metrics=self.metrics, keys=self.keys, tracing=self.tracing)

    @classmethod
    def of(cls, settings: ServeSettings, engine: Engine | None, cells: Cells | None = None) -> Parts:
        """The parts of a server, its model loaded and not yet checked."""
        cells = cells or PrivateCells()
        metrics = Metrics(cells)
        metrics.settings(settings)
        weights = Weights(settings.weights)
        admission = Admission(
            max_images=settings.max_queue,
            max_bytes=settings.max_queue_bytes,
            max_of_one=settings.max_caller_queue,
            weights=weights,
        )
        keys = KeyRing(file=settings.key_file, hashes=settings.key_hashes, changed=metrics.keep_keys)
        takers = takers_of(settings, metrics, cells)
        sampler = Sampler(takers, rate=settings.sample_rate) if takers else None
        shadow = Shadow(settings, metrics) if settings.shadow else None
        endpoint, share = settings.traces_endpoint, settings.traces_share
        tracing = Tracing(endpoint, share=share) if endpoint else None
        serving = Serving(settings, metrics, engine=engine)
        room = room_of(settings, cells)
        decoders = Decoders(settings.decode_workers, limits=settings.limits, room=room)
        health = Health(serving, decoders, settings.stall_after, settings.dead_after)
        turns = Turns(serving.model.at_once or settings.max_queue, weights)
        judge = Judge(metrics, admission, decoders, turns, settings.top_k, sampler, shadow)
        traffic = Traffic(metrics, admission, serving, health)
        metrics.queue_images.set_function(lambda: admission.images)
        metrics.decoding_bytes.set_function(lambda: decoders.held)
        metrics.decoding_seconds.set_function(lambda: decoders.oldest)
        metrics.ready.set_function(lambda: float(health.not_ready is None))
        return cls(
            settings, metrics, keys, admission, serving, health, decoders, judge, traffic, sampler, shadow, tracing
        )

    async def close(self) -> None:
        """Stop the decoders, send and write what waits, and end the model."""
        self.decoders.close()
        for part in (self.shadow, self.sampler, self.tracing):
            if part is not None:
                await asyncio.to_thread(part.close)
        await self.serving.close()


def room_of(settings: ServeSettings, cells: Cells) -> DecodingRoom:
    """What decoders may hold: alone, or together with those of the other workers."""
    if isinstance(cells, MappedCells):
        return SharedRoom(settings.max_decode_bytes, cells)
    return DecodingRoom(settings.max_decode_bytes)


def takers_of(settings: ServeSettings, metrics: Metrics, cells: Cells) -> list[Taker]:
    """Where sampled flagged images go: nowhere, to a place, to a webhook, or to both."""
    found: list[Taker] = []
    place = place_of(settings.sample_dir, settings.sample_store)
    if place is not None:
        found.append(Keeper(place, max_bytes=settings.sample_max_bytes, metrics=metrics, cells=cells))
    if settings.sample_webhook and settings.sample_webhook_secret:
        found.append(Webhook(settings.sample_webhook, settings.sample_webhook_secret, metrics=metrics))
    return found


@dataclass(frozen=True)
class Gateway:
    """Two ASGI applications and the gRPC server, of the same parts; the lifetime of `public` is the server's."""

    parts: Parts
    public: Frame
    private: Frame
    rpc: RpcServer | None


def create_gateway(settings: ServeSettings, *, engine: Engine | None = None, cells: Cells | None = None) -> Gateway:
    """The applications that serve a bundle.

    ```python
    gateway = create_gateway(ServeSettings(bundle=Path("bundles/photos")))
    ```

    Verifies the bundle before anything else: raises `FormatError`, in one line, when a hash or the schema does not
    fit. Another `engine` than the one the settings name may be given. `cells` are where a worker counts.
    """
    parts = Parts.of(settings, engine, cells)
    manifest = parts.serving.model.manifest
    rpc = rpc_server(parts) if settings.grpc_port is not None else None
    public = framed(
        public_routes(parts),
        parts,
        title="oodguard",
        description=f"Guarded classifier {manifest.name}: a label and an out-of-distribution verdict for each image.",
        version=manifest.version,
        lifespan=lambda _: lifespan(parts, rpc),
        published=True,
    )
    private = framed(private_routes(parts), parts, title=ADMINISTRATION)
    return Gateway(parts, public, private, rpc)


def public_routes(parts: Parts) -> list[Route]:
    """Every route of the public application."""
    entrance = Entrance(parts.settings, parts.health, parts.admission)
    predict = Predict(entrance, parts.serving, parts.judge, parts.decoders.pool)
    open_inference = OpenInference(entrance, parts.serving, parts.health, parts.judge, parts.decoders.pool)
    page = (
        PageRoutes(parts.settings, parts.serving, parts.traffic, parts.shadow).routes
        if parts.settings.page
        else (REDIRECT,)
    )
    health = HealthRoutes(parts.health, parts.serving)
    thumbnails = ThumbnailRoutes(parts.serving)
    return [
        *predict.routes,
        *thumbnails.routes,
        *health.routes,
        *open_inference.routes,
        *static_routes("docs"),
        *page,
        OPENAPI,
    ]


def private_routes(parts: Parts) -> list[Route]:
    """Every route of the private application."""
    health = HealthRoutes(parts.health, parts.serving)
    return [*health.routes, *AdminRoutes(parts.metrics, parts.serving, parts.keys, parts.shadow).routes]


def rpc_server(parts: Parts) -> RpcServer:
    """The gRPC server. Raises `EnvironmentProblem` without its extra."""
    try:
        from oodguard.server.rpc.rpc_server import RpcServer, procedures_of
    except (ModuleNotFoundError, RuntimeError):  # tritonclient without gRPC raises the latter
        raise EnvironmentProblem("the gRPC port needs: pip install 'oodguard[grpc]'") from None
    return RpcServer(parts.settings, procedures_of(parts), reception=parts.reception)


@asynccontextmanager
async def lifespan(parts: Parts, rpc: RpcServer | None) -> AsyncIterator[None]:
    """What runs beside the requests, from the first to the last."""
    await parts.serving.start()
    if parts.shadow is not None:
        parts.shadow.start()
    if rpc is not None:
        await rpc.start()
    beside = []
    if parts.settings.watch:
        beside += [watch_files(parts.settings, parts.serving, parts.keys), watch_remote(parts.serving)]
        if parts.shadow is not None:
            beside.append(watch_bundle(parts.shadow.bundle, parts.shadow, parts.settings.watch_interval))
    if parts.settings.page:
        beside.append(parts.traffic.run())
    tasks = [asyncio.create_task(work) for work in beside]
    for task in tasks:
        task.add_done_callback(parts.health.ended)
    yield
    if rpc is not None:
        await rpc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await parts.close()


class Common(Protocol):
    """What the frames of all applications need."""

    @property
    def settings(self) -> ServeSettings: ...  # noqa: D102
    @property
    def reception(self) -> Reception: ...  # noqa: D102
    @property
    def health(self) -> Probes: ...  # noqa: D102
    @property
    def keys(self) -> KeyRing: ...  # noqa: D102


def framed(
    routes: Sequence[Route],
    common: Common,
    *,
    published: bool = False,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
    **about: Any,
) -> Frame:
    """An application of these routes and no others, in its frame.

    `published`: to proxies and other origins. `about`: what its document begins with.
    """
    settings = common.settings
    root_path = settings.root_path if published else ""
    app = Starlette(lifespan=lifespan)
    # Made when somebody asks, and once.
    app.state.document = cache(partial(document, routes, root_path=root_path, **{"title": "oodguard", **about}))
    for route in routes:
        route.add_to(app)
    return Frame(
        app,
        routes,
        reception=common.reception,
        health=common.health,
        root_path=root_path,
        cors_origins=settings.origins if published else (),
        pages=Pages(
            settings.host if published else settings.admin_host,
            keyless=not (published and common.keys.needed),
            names=(settings.host_names or "").split(",") if published else (),
            origins=settings.origins if published else (),
        ),
    )

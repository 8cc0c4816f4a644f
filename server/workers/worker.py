"""One worker: it serves the connections that the fleet hands it, and does what the fleet orders."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import uvicorn

from oodguard.core.errors import OodguardError
from oodguard.server import logs
from oodguard.server.app import Gateway, create_gateway
from oodguard.server.cells import INSIDE, MappedCells, keep_values_in
from oodguard.server.descriptors import fitting, raise_limit
from oodguard.server.errors import ReloadRefused
from oodguard.server.gateway import TOLD, PublicServer, config_of, leave, yield_to_inference
from oodguard.server.heap import map_large_blocks
from oodguard.server.incidents import Incidents
from oodguard.server.model import ServedModel
from oodguard.server.settings import ServeSettings
from oodguard.server.workers.hatch import Hatch
from oodguard.server.workers.messages import (
    MOST_LINE_BYTES,
    ModelNews,
    Order,
    WorkerPlan,
    WorkerReport,
    WorkerState,
    line,
    orders,
)

# Seconds between two looks at how the worker is; it tells what has changed, and in any case once a second.
LOOK = 0.1
TELL = 1.0


class WorkerServer(PublicServer):
    """The public server of one worker: its connections come through a hatch, its end is ordered."""

    hatch: Hatch

    def __init__(self, config: uvicorn.Config, gateway: Gateway, handed: socket.socket) -> None:
        super().__init__(config, gateway)
        self._handed = handed

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the parts of the server; connections come once the fleet knows."""
        await uvicorn.Server.startup(self, [])
        settings = self._gateway.parts.settings
        room = settings.max_connections + TOLD
        self.hatch = Hatch(
            self._handed,
            self._protocol,
            context=self.config.ssl,
            handshake_timeout=settings.header_timeout,
            full=lambda taking: len(self.server_state.connections) + taking >= room,
        )
        self.hatch.open()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the fleet."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the connections in order, also those that were handed over and not yet taken."""
        await self.hatch.close()
        await super().shutdown([])

    @property
    def open(self) -> int:
        """Connections that this worker has."""
        return len(self.server_state.connections) + self.hatch.taking


class Worker:
    """What a worker and the fleet tell each other about a gateway."""

    def __init__(self, gateway: Gateway, server: WorkerServer, cells: MappedCells, channel: socket.socket) -> None:
        self._gateway = gateway
        self._server = server
        self._cells = cells
        self._channel = channel
        self._prepared: ServedModel | None = None
        self._preparing: asyncio.Task[None] | None = None

    async def run(self, rpc: socket.socket | None) -> None:
        """Serve until the fleet orders the end, or is gone."""
        reader, self._writer = await asyncio.open_connection(sock=self._channel, limit=MOST_LINE_BYTES)
        self._tell(WorkerReport(kind="model", model=news_of(self._gateway.parts.serving.model)))
        if self._gateway.rpc is not None and rpc is not None:
            self._gateway.rpc.open(rpc)
        beside = [asyncio.create_task(self._obey(reader)), asyncio.create_task(self._watch())]
        await self._server.serve(sockets=[])
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        self._writer.close()

    def _tell(self, report: WorkerReport) -> None:
        self._writer.write(line(report))

    async def _obey(self, reader: asyncio.StreamReader) -> None:
        async for order in orders(reader):
            await self._do(order)
        # Nobody is left who would hand over a connection, or answer a probe.
        logs.server.critical("the process that looks after the workers is gone; this one ends")
        self._gateway.parts.health.draining = self._server.should_exit = True

    async def _do(self, order: Order) -> None:
        parts = self._gateway.parts
        match order.kind:
            case "keys":
                with contextlib.suppress(ReloadRefused):
                    parts.keys.reload()
            case "prepare":
                self._preparing = asyncio.create_task(self._prepare())
            case "commit" | "abort":
                await self._decide(take=order.kind == "commit")
            case "whole":
                parts.health.elsewhere = order.reason
            case "drain":
                parts.health.draining = True
            case "close":
                self._server.should_exit = True

    async def _prepare(self) -> None:
        await self._decide(take=False)
        try:
            self._prepared = await self._gateway.parts.serving.prepared()
        except ReloadRefused as error:
            self._tell(WorkerReport(kind="prepared", text=str(error)))
        else:
            self._tell(WorkerReport(kind="prepared", fingerprint=self._prepared.fingerprint))

    async def _decide(self, *, take: bool) -> None:
        model, self._prepared = self._prepared, None
        if model is None:
            return
        if take:
            self._gateway.parts.serving.swap(model)
            self._tell(WorkerReport(kind="model", model=news_of(model)))
        else:
            await model.close()

    async def _watch(self) -> None:
        """Tell the fleet when connections may come, and then how the worker is."""
        while not self._server.started:
            await asyncio.sleep(LOOK)
        self._tell(WorkerReport(kind="started"))
        told: WorkerState | None = None
        loop = asyncio.get_running_loop()
        at = loop.time()
        while True:
            parts = self._gateway.parts
            self._cells.row[INSIDE] = parts.admission.images
            state = self._state()
            if state != told or loop.time() - at >= TELL:
                self._tell(WorkerReport(kind="state", state=state))
                told, at = state, loop.time()
            await asyncio.sleep(LOOK)

    def _state(self) -> WorkerState:
        health = self._gateway.parts.health
        gauges = [
            (family.name, dict(sample.labels), sample.value)
            for family in self._gateway.parts.metrics.gauges()
            for sample in family.samples
        ]
        return WorkerState(
            open=self._server.open,
            received=self._server.hatch.received,
            problem=health.own_problem,
            dead=health.dead,
            gauges=tuple(gauges),
        )


def news_of(model: ServedModel) -> ModelNews:
    """What the fleet has to know of a model."""
    manifest = model.manifest
    sample = str(model.bundle / manifest.golden[0].path) if model.bundle else None
    return ModelNews(
        name=manifest.name,
        version=manifest.version,
        fingerprint=model.fingerprint,
        runs_on=model.runs_on,
        sample=sample,
        labels=tuple(manifest.classes),
        scores=tuple(entry.name for entry in manifest.scores),
        sources=tuple(manifest.sources),
    )


def serve(plan: WorkerPlan) -> int:
    """Serve as `plan` says; the exit code."""
    # Ctrl-C, and some supervisors, reach every process; the fleet alone decides when this one ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=plan.orders)
    handed = socket.socket(fileno=plan.connections)
    mine = plan.stores[plan.number - 1]
    cells = MappedCells(mine, others=[one for one in plan.stores if one != mine], guard=plan.guard)
    cells.free()
    keep_values_in(cells)
    try:
        settings = ServeSettings(**plan.settings)
        logs.configure(level=settings.log_level, style=settings.log_format, worker=plan.number)
        # Threads inherit the scheduling policy, so it is set before any thread starts.
        yield_to_inference()
        map_large_blocks()
        gateway = create_gateway(fitting(settings, limit=raise_limit()), cells=cells)
        server = WorkerServer(config_of(gateway, Incidents(gateway.parts.metrics)), gateway, handed)
        rpc = _join(*plan.grpc) if plan.grpc else None
    except OodguardError as error:
        channel.sendall(line(WorkerReport(kind="refused", error=type(error).__name__, text=str(error))))
        return error.exit_code
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(Worker(gateway, server, cells, channel).run(rpc))
        if not server.started:
            os._exit(1)
        return leave(gateway)


def _join(host: str, port: int) -> socket.socket:
    """A socket on the gRPC port, which all workers share."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    return listening

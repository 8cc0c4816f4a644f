"""The process that looks after the workers: it has the public port, the private one, and the signals."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oodguard.core.errors import EnvironmentProblem
from oodguard.server.app import ADMINISTRATION, framed
from oodguard.server.cells import MappedCells, keep_values_in, new_store
from oodguard.server.descriptors import raise_limit
from oodguard.server.endpoints import AdminRoutes, HealthRoutes
from oodguard.server.frame import Frame
from oodguard.server.gateway import EXIT_KILLED, private_server
from oodguard.server.incidents import Incidents
from oodguard.server.keys import KeyRing
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.reception import Reception
from oodguard.server.settings import ServeSettings
from oodguard.server.watch import watch_files
from oodguard.server.workers.crew import Crew
from oodguard.server.workers.doorkeeper import Doorkeeper
from oodguard.server.workers.merged import Merged
from oodguard.server.workers.messages import ModelNews, Order
from oodguard.server.workers.share import share_of, written
from oodguard.server.workers.whole import FleetKeys, FleetProbes, SharedRelease

# Seconds between two looks at whether the whole is ready.
LOOK = 0.1
# What the end takes beside the requests: gRPC's callers leave, flagged images and traces are sent.
MARGIN = 30.0


@dataclass(frozen=True)
class Office:
    """What the frame of the private application needs."""

    settings: ServeSettings
    reception: Reception
    health: FleetProbes
    keys: KeyRing


class Fleet:
    """One server of several processes.

    ```python
    fleet = Fleet(settings, 4, public, private)
    code = fleet.run(announce, grpc=None)
    ```

    `announce` is called with the model once the first worker has loaded it. `grpc`: the address of the gRPC port.
    """

    def __init__(self, settings: ServeSettings, workers: int, public: socket.socket, private: socket.socket) -> None:
        """Raises as `KeyRing` does, and `EnvironmentProblem` where connections cannot be handed over."""
        if not hasattr(socket, "send_fds"):
            raise EnvironmentProblem("this system cannot hand connections to other processes; leave out --workers")
        self._settings = settings
        self._public = public
        self._private = private
        raise_limit()
        stores = [new_store() for _ in range(workers)]
        own = MappedCells(new_store())
        keep_values_in(own)
        self._metrics = Metrics(own)
        self._metrics.settings(settings)
        self._keys = KeyRing(file=settings.key_file, hashes=settings.key_hashes)
        self._crew = Crew(
            written(share_of(settings, workers)),
            self._metrics,
            stores=stores,
            guard=new_store(),
            dead_after=settings.dead_after,
        )
        self._merged = Merged(
            self._metrics,
            [own, *(MappedCells(store) for store in stores)],
            states=lambda: [one.state for one in self._crew.workers if one.state is not None],
            models=lambda: [one.model for one in self._crew.workers if one.model is not None],
        )
        self._probes = FleetProbes(crew=self._crew, dead_after=settings.dead_after)
        self._release = SharedRelease(self._crew)
        self._metrics.workers.set_function(lambda: float(len(self._crew.workers)))
        self._metrics.ready.set_function(lambda: float(self._probes.not_ready is None))

    @property
    def keys_needed(self) -> bool:
        """Whether callers need a key."""
        return self._keys.needed

    def run(self, announce: Callable[[ModelNews], None], *, grpc: tuple[str, int] | None) -> int:
        """Serve until a signal; the exit code, 0 after an orderly end. Raises what keeps the workers from serving."""
        with asyncio.Runner() as runner:
            return runner.run(self._run(announce, grpc))

    async def _run(self, announce: Callable[[ModelNews], None], grpc: tuple[str, int] | None) -> int:
        settings, crew, loop = self._settings, self._crew, asyncio.get_running_loop()
        self._drained = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        server = private_server(self._application(), settings, Incidents(self._metrics))
        beside = [loop.create_task(server.serve(sockets=[self._private]))]
        doorkeeper = Doorkeeper(self._public, crew)
        stopped = loop.create_task(self._drained.wait())
        try:
            starting = loop.create_task(self._start(announce, grpc))
            await _first(starting, stopped)
            if starting.done():
                starting.result()
                doorkeeper.open()
                self._probes.begun = True
                watching = self._watch()
                await _first(crew.failed, stopped)
                for task in watching:
                    task.cancel()
            starting.cancel()
            if crew.failed.done():
                crew.failed.result()
            doorkeeper.close()
            crew.order(Order(kind="close"))
            return await crew.end(settings.drain_timeout + MARGIN)
        finally:
            crew.kill()
            stopped.cancel()
            server.should_exit = True
            await asyncio.gather(*beside)

    async def _start(self, announce: Callable[[ModelNews], None], grpc: tuple[str, int] | None) -> None:
        announced = asyncio.get_running_loop().create_task(self._announce(announce))
        try:
            await self._crew.start(grpc=grpc)
            await announced
        finally:
            announced.cancel()

    async def _announce(self, announce: Callable[[ModelNews], None]) -> None:
        while (news := self._crew.serves) is None:
            await self._crew.change()
        self._metrics.name(news.name, news.version)
        announce(news)

    def _watch(self) -> list[asyncio.Task[None]]:
        work = [self._tell_whole()]
        if self._settings.watch:
            work.append(watch_files(self._settings, self._release, FleetKeys(self._keys, self._crew)))
        tasks = [asyncio.get_running_loop().create_task(one) for one in work]
        for task in tasks:
            task.add_done_callback(self._probes.ended)
        return tasks

    async def _tell_whole(self) -> None:
        """Tell every worker why the whole is not ready: the public port says the same as the private one."""
        told: dict[int, str | None] = {}
        while True:
            reason = self._probes.not_ready
            for worker in self._crew.workers:
                # One that was started in another's place has been told nothing.
                if worker.started and (told.get(worker.pid, "") != reason):
                    worker.order(Order(kind="whole", reason=reason))
            told = {worker.pid: reason for worker in self._crew.workers if worker.started}
            news = self._crew.serves
            if news is not None:
                self._metrics.name(news.name, news.version)
            await asyncio.sleep(LOOK)

    def _application(self) -> Frame:
        """The private application, for the whole."""
        routes = [
            *HealthRoutes(self._probes, self._release).routes,
            *AdminRoutes(self._merged, self._release, FleetKeys(self._keys, self._crew), None, self._crew.count).routes,
        ]
        reception = Reception(metrics=self._metrics, keys=self._keys, tracing=None)
        return framed(routes, Office(self._settings, reception, self._probes, self._keys), title=ADMINISTRATION)

    def _stop(self, number: signal.Signals) -> None:
        """Take a signal: the first begins the end, the second is the end."""
        if self._probes.draining:
            self._crew.kill()
            os._exit(EXIT_KILLED + number)
        self._probes.draining = True
        self._crew.order(Order(kind="drain"))
        delay = self._settings.drain_delay
        log.warning("%s: readiness is red, the port closes in %g s", signal.Signals(number).name, delay)
        asyncio.get_running_loop().call_later(delay, self._drained.set)


async def _first(*futures: asyncio.Future[Any]) -> None:
    """Wait for the first of several to end."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)

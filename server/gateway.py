"""The server process: its ports, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from types import FrameType
from typing import cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from oodguard.server.app import Gateway
from oodguard.server.descriptors import PRIVATE_CONNECTIONS
from oodguard.server.door import TlsDoor
from oodguard.server.frame import Frame
from oodguard.server.heap import map_large_blocks
from oodguard.server.incidents import Incidents
from oodguard.server.logs import server as log
from oodguard.server.protocol import protocol_for
from oodguard.server.settings import ServeSettings

EXIT_KILLED = 128
# Connections beyond those that there may be whose callers are told why they are refused, at any moment.
TOLD = 8


class PublicServer(uvicorn.Server):
    """Serves until the first SIGTERM or SIGINT, then turns readiness red, serves on for `drain_delay`, and drains.

    A second signal ends the process at once.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._rpc_ending: asyncio.Task[None] | None = None
        self._doors: list[TlsDoor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the parts of the server, then open the port."""
        await super().startup([] if self.config.is_ssl else sockets)
        if not self.config.is_ssl or self.should_exit:
            return
        settings = self._gateway.parts.settings
        # Counted when they are accepted; a few callers too many are still told so in HTTP.
        room = settings.max_connections + TOLD
        for listening in sockets or []:
            assert self.config.ssl is not None
            door = TlsDoor(
                listening,
                self._protocol,
                context=self.config.ssl,
                handshake_timeout=settings.header_timeout,
                full=lambda shaking: len(self.server_state.connections) + shaking >= room,
            )
            door.open()
            self._doors.append(door)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        health, delay = self._gateway.parts.health, self._gateway.parts.settings.drain_delay
        if health.draining:
            os._exit(EXIT_KILLED + sig)
        health.draining = True
        log.warning("%s: readiness is red, the port closes in %g s", signal.Signals(sig).name, delay)
        asyncio.get_running_loop().call_later(delay, self._close)

    def _close(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and end the connections in order, also those that the kernel holds and nobody has accepted."""
        loop = asyncio.get_running_loop()
        for door in self._doors:
            door.close()
        if self._gateway.rpc is not None:
            # Beside HTTP; the end of the lifetime waits for it.
            self._rpc_ending = loop.create_task(self._gateway.rpc.stop())
        # Closing the socket would reset them, requests and all.
        timeout = self._gateway.parts.settings.header_timeout if self.config.is_ssl else None
        late = [
            loop.create_task(
                loop.connect_accepted_socket(
                    self._protocol, waiting, ssl=self.config.ssl, ssl_handshake_timeout=timeout
                )
            )
            for listening in sockets or []
            for waiting in _accepted(listening)
        ]
        await super().shutdown(sockets)
        await asyncio.gather(*late, return_exceptions=True)

    def _protocol(self) -> asyncio.Protocol:
        kind = cast(type[HttpToolsProtocol], self.config.http_protocol_class)
        return kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


class PrivateServer(uvicorn.Server):
    """Serves metrics and administration for as long as the public server lives."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the public server."""
        yield


def _accepted(listening: socket.socket) -> Iterator[socket.socket]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield listening.accept()[0]


def yield_to_inference() -> None:
    """Let a thread that wakes up wait for its turn instead of interrupting another.

    A request wakes the event loop a few times. Each time it would push an inference off its core and out of the
    core's cache, which costs more than the loop's own work; a few milliseconds later is early enough.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def config_of(gateway: Gateway, incidents: Incidents) -> uvicorn.Config:
    """How uvicorn serves the public port."""
    settings = gateway.parts.settings
    return uvicorn.Config(
        gateway.public,
        http=protocol_for(settings, incidents, most=settings.max_connections),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=int(settings.drain_timeout) or 1,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=str(settings.tls_ca) if settings.tls_ca else None,
        ssl_cert_reqs=2 if settings.tls_ca else 0,
    )


def private_server(application: Frame, settings: ServeSettings, incidents: Incidents) -> PrivateServer:
    """What serves the private port."""
    return PrivateServer(
        uvicorn.Config(
            application,
            http=protocol_for(settings, incidents, most=PRIVATE_CONNECTIONS),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )


def leave(gateway: Gateway) -> int:
    """The exit code of a server that has ended; does not return where a thread would keep the interpreter."""
    health = gateway.parts.health
    if health.broken or health.own_problem != "shutting down":
        # A thread that hangs inside the engine would keep the interpreter from ending.
        logging.shutdown()
        os._exit(1)
    if gateway.parts.decoders.busy:
        # Every request has its answer; what is decoded on has none that waits for it.
        logging.shutdown()
        os._exit(0)
    return 0


def run(gateway: Gateway, public: socket.socket, private: socket.socket, rpc: socket.socket | None = None) -> int:
    """Serve on bound sockets until a signal; the exit code, 0 after an orderly end. `rpc` is for the gRPC port."""
    map_large_blocks()
    incidents = Incidents(gateway.parts.metrics)
    config = config_of(gateway, incidents)
    server = PublicServer(config, gateway)
    beside = private_server(gateway.private, gateway.parts.settings, incidents)

    async def both() -> None:
        if gateway.rpc is not None and rpc is not None:
            gateway.rpc.open(rpc)
        task = asyncio.create_task(beside.serve(sockets=[private]))
        try:
            await server.serve(sockets=[public])
        finally:
            beside.should_exit = True
            await task

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(both())
        # Before the loop closes, which waits for its threads.
        return leave(gateway)

"""The gRPC server: its port, TLS, limits of connections, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from oodguard.core.errors import EnvironmentProblem
from oodguard.server.reception import Reception
from oodguard.server.rpc.frame import Lanes, Procedure, RpcFrame
from oodguard.server.rpc.health_service import HealthService
from oodguard.server.rpc.inference_service import InferenceService
from oodguard.server.rpc.receiving import Receiving
from oodguard.server.rpc.sockets import connections, stop_listening
from oodguard.server.settings import ServeSettings

if TYPE_CHECKING:
    from oodguard.server.app import Parts

# Messages of a few bytes come with their headers, so hardly any is ever on its way.
LIGHT_AT_ONCE, LIGHT_TIMEOUT, LIGHT_PATIENCE = 2, 1.0, 0.05
# How long a message with images may keep others waiting.
PATIENCE = 1.0
PING_TIMEOUT_MS = 10_000
# Callers keep one connection, and are asked so often to connect again: elsewhere, once this server is to end, and to
# servers that are new.
CONNECTION_AGE = 5.0
# gRPC varies that age by a tenth.
LONGEST_AGE = 1.2 * CONNECTION_AGE
# Callers that were quiet for so long are taken to have left.
QUIET = 0.5
# Seconds between two looks at whether they have.
LOOK = 0.05


class RpcServer:
    """Serves procedures from `start` until `stop`.

    ```python
    server = RpcServer(settings, service.procedures, reception=reception)
    server.open(listen("127.0.0.1", 0))
    await server.start()
    ```
    """

    def __init__(self, settings: ServeSettings, procedures: Sequence[Procedure], *, reception: Reception) -> None:
        self._settings = settings
        self._procedures = procedures
        self._reception = reception
        self._server: Any = None
        self._frame: RpcFrame | None = None
        self._port = 0
        self._ending: asyncio.Task[None] | None = None

    def open(self, taken: socket.socket) -> None:
        """Take over the port of a bound socket, which is closed. Raises `EnvironmentProblem`.

        To be called inside the event loop.
        """
        # Its own log is no JSON, and has a line for much that callers do wrong.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        settings, most = self._settings, self._settings.max_body_bytes
        lanes = Lanes(
            Receiving(at_once=LIGHT_AT_ONCE, timeout=LIGHT_TIMEOUT, patience=LIGHT_PATIENCE, most_bytes=most),
            Receiving(
                at_once=max(1, settings.max_queue_bytes // most),
                timeout=settings.body_timeout,
                patience=PATIENCE,
                most_bytes=most,
            ),
        )
        self._frame = RpcFrame(
            self._procedures, reception=self._reception, lanes=lanes, most_calls=settings.max_connections
        )
        self._server = grpc.aio.server(handlers=(self._frame,), options=options_of(settings))
        host, self._port = taken.getsockname()[:2]
        address = f"[{host}]:{self._port}" if taken.family == socket.AF_INET6 else f"{host}:{self._port}"
        credentials = credentials_of(settings)
        taken.close()
        try:
            if credentials is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise EnvironmentProblem(f"cannot listen on {address}; choose another --grpc-port") from None

    async def start(self) -> None:
        """Answer calls from now on."""
        await self._server.start()

    async def stop(self) -> None:
        """Take no new connections, and end when the last call is answered; may be called twice.

        That takes at most `drain_timeout`.
        """
        if self._ending is None and self._frame is not None:
            self._ending = asyncio.ensure_future(self._end(self._frame))
        if self._ending is not None:
            await self._ending

    async def _end(self, frame: RpcFrame) -> None:
        began, most = time.monotonic(), self._settings.drain_timeout
        frame.closing.set()
        stop_listening(self._port)
        # Where gRPC ends, it cancels calls that are on their way; so callers leave first, each when its connection is
        # old enough (https://github.com/grpc/grpc/issues/41785).
        while time.monotonic() - began < min(LONGEST_AGE, most) and connections(self._port) and frame.quiet < QUIET:
            await asyncio.sleep(LOOK)
        await self._server.stop(max(0.0, began + most - time.monotonic()))


def procedures_of(parts: Parts) -> tuple[Procedure, ...]:
    """Every method of the port."""
    inference = InferenceService(
        parts.settings, parts.serving, parts.health, parts.admission, parts.judge, parts.decoders.pool
    )
    return (*inference.procedures, *HealthService(parts.health).procedures)


def options_of(settings: ServeSettings) -> tuple[tuple[str, int], ...]:
    """The server's limits, as gRPC calls them."""
    idle = 1000 * settings.keep_alive
    return (
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", round(1000 * settings.header_timeout)),
        ("grpc.max_connection_idle_ms", idle),
        ("grpc.max_connection_age_ms", round(1000 * CONNECTION_AGE)),
        # Finds callers that vanished without closing their connection.
        ("grpc.keepalive_time_ms", idle),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        # What nobody reads must not grow beyond a stream's first window.
        ("grpc.http2.bdp_probe", 0),
        # Two servers on one port would share its callers without a word; the workers of one do.
        ("grpc.so_reuseport", int(settings.workers not in (1, "auto"))),
    )


def credentials_of(settings: ServeSettings) -> Any:
    """TLS as on the HTTP port, or None. Raises `EnvironmentProblem` for files that are none of TLS."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        # gRPC would only say that it cannot listen.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:
        raise EnvironmentProblem(
            f"{settings.tls_cert} and {settings.tls_key} are no certificate and its key ({error.strerror})"
        ) from None
    authorities = _read(settings.tls_ca) if settings.tls_ca else None
    pair = (_read(settings.tls_key), _read(settings.tls_cert))
    return grpc.ssl_server_credentials((pair,), authorities, require_client_auth=authorities is not None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be read ({error.strerror})") from None

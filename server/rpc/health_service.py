"""gRPC's standard health service, `grpc.health.v1.Health`: the readiness that the HTTP probes see."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from grpc_health.v1 import health_pb2 as pb

from oodguard.core.codes import Code
from oodguard.core.problems import Problem, problem
from oodguard.server.errors import RequestError
from oodguard.server.health import Health
from oodguard.server.rpc import messages
from oodguard.server.rpc.frame import Procedure, RpcCall
from oodguard.server.rpc.inference_service import SERVICE

# The server as a whole, and its one service.
NAMES = ("", SERVICE)
WATCH_SECONDS = 0.5


@dataclass(frozen=True)
class HealthService:
    """The procedures of the service; they need no key, as the probes over HTTP."""

    health: Health

    @property
    def procedures(self) -> tuple[Procedure, ...]:
        """`Check` and `Watch`."""
        return (
            Procedure(path="/grpc.health.v1.Health/Check", answer=self.check, open=True),
            Procedure(path="/grpc.health.v1.Health/Watch", answer=self.watch, open=True, streams=True),
        )

    async def check(self, call: RpcCall) -> bytes:
        """SERVING when traffic may be sent here."""
        name = await self._name(call)
        if name not in NAMES:
            raise RequestError(Code.NOT_FOUND, f"there is no such service; ask for {SERVICE}, or for nothing by name")
        return self._status(name)

    async def watch(self, call: RpcCall) -> Problem:
        """The same at once and at every change, until the caller leaves or the server ends."""
        name, said = await self._name(call), b""
        while not call.closing.is_set():
            status = self._status(name)
            if status != said:
                await call.context.write(status)
                said = status
            # Readiness is worked out when it is asked for, so nothing can tell of a change.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await call.closing.wait()
        return problem(Code.NOT_READY, "the server has ended")

    async def _name(self, call: RpcCall) -> str:
        return str(messages.read(pb.HealthCheckRequest, await call.read()).service)

    def _status(self, name: str) -> bytes:
        kinds = pb.HealthCheckResponse
        kind = kinds.SERVING if self.health.not_ready is None else kinds.NOT_SERVING
        return bytes(kinds(status=kind if name in NAMES else kinds.SERVICE_UNKNOWN).SerializeToString())

"""The gRPC service of the Open Inference Protocol: `inference.GRPCInferenceService`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from oodguard.core.codes import Code
from oodguard.core.problems import Problem
from oodguard.server import open_inference as oip
from oodguard.server.admission import Admission
from oodguard.server.call import SOURCE_HEADER, TIMEOUT_HEADER, timeout_of
from oodguard.server.errors import RequestError
from oodguard.server.health import Health
from oodguard.server.inference import Inference
from oodguard.server.intake import parsed
from oodguard.server.judging import Judge
from oodguard.server.rpc import messages
from oodguard.server.rpc.frame import Procedure, RpcCall
from oodguard.server.serving import Serving
from oodguard.server.settings import ServeSettings

SERVICE = "inference.GRPCInferenceService"
# What Triton has and this server has not: a client that asks is told where else to look.
ELSEWHERE = {
    "ModelConfig": "ModelMetadata says what the model takes and answers",
    "ModelStatistics": "the private port has metrics",
    "ModelStreamInfer": "send one ModelInfer for each request",
    "RepositoryIndex": "ServerMetadata and ModelMetadata say what is served",
    "RepositoryModelLoad": "replace the bundle, or post to /admin/reload on the private port",
    "RepositoryModelUnload": "one server serves one model",
}


@dataclass(frozen=True)
class InferenceService:
    """The procedures of the service for one server."""

    settings: ServeSettings
    serving: Serving
    health: Health
    admission: Admission
    judge: Judge
    workers: ThreadPoolExecutor

    @property
    def procedures(self) -> tuple[Procedure, ...]:
        """The server's, then those of its model, then those that it does without."""

        def named(name: str, answer: Callable[[RpcCall], Awaitable[bytes | Problem]], **how: Any) -> Procedure:
            return Procedure(path=f"/{SERVICE}/{name}", answer=answer, **how)

        return (
            named("ServerLive", self.live, open=True),
            named("ServerReady", self.ready, open=True),
            named("ServerMetadata", self.server_metadata),
            named("ModelReady", self.model_ready),
            named("ModelMetadata", self.model_metadata),
            named("ModelInfer", self.infer, inference=True, light=False),
            *(named(name, partial(_missing, name)) for name in ELSEWHERE),
        )

    async def live(self, _: RpcCall) -> bytes:
        """Whether the process works."""
        return _bytes(pb.ServerLiveResponse(live=self.health.dead is None))

    async def ready(self, _: RpcCall) -> bytes:
        """Whether traffic may be sent here."""
        return _bytes(pb.ServerReadyResponse(ready=self.health.not_ready is None))

    async def server_metadata(self, _: RpcCall) -> bytes:
        """What this server is."""
        return _bytes(pb.ServerMetadataResponse(**oip.SERVER))

    async def model_ready(self, call: RpcCall) -> bytes:
        """Whether the model may be asked."""
        request = messages.read(pb.ModelReadyRequest, await call.read())
        oip.require_model(self.serving.model.ref, request.name, request.version or None)
        return _bytes(pb.ModelReadyResponse(ready=self.health.not_ready is None))

    async def model_metadata(self, call: RpcCall) -> bytes:
        """Inputs and outputs of the model."""
        request = messages.read(pb.ModelMetadataRequest, await call.read())
        model = self.serving.model
        oip.require_model(model.ref, request.name, request.version or None)
        return _bytes(pb.ModelMetadataResponse(**oip.metadata(model.manifest)))

    async def infer(self, call: RpcCall) -> bytes | Problem:
        """Answer a tensor of encoded images (BYTES) or of pixels (UINT8)."""
        self.health.require_able()
        caller = call.visit.caller
        with self.admission.enter(caller, task=asyncio.current_task()) as reservation:
            seconds = timeout_of(call.visit.header(TIMEOUT_HEADER.encode()), self.settings)
            body = await call.read()
            call.visit.arrived = time.monotonic()
            deadline = call.visit.arrived + self._bounded(seconds, call)
            reservation.grow(body_bytes=len(body))
            most = self.settings.max_files
            with self.serving.model.lease() as model:
                parse = partial(messages.parse, served=model.ref, manifest=model.manifest, most_images=most)
                message, images = await parsed(body, parse, self.workers)
                # The images are a copy of their own; held, the message would double what the queue takes.
                del body
                source, tolerant = (
                    call.visit.header(SOURCE_HEADER.encode()) or None,
                    oip.check_outputs(message, model.manifest),
                )
                inference = Inference(message, images, tolerant=tolerant, source=source)
                reservation.hold(len(images), most=most)
                read = call.visit.arrived - call.visit.started
                found = await inference.judged(self.judge, model, deadline=deadline, read=read, caller=caller)
        return found if isinstance(found, Problem) else messages.encode(message, model.ref, found)

    def _bounded(self, seconds: float, call: RpcCall) -> float:
        """Seconds that a call may take: until its own deadline, where it has one, within the server's limit."""
        remaining = call.remaining
        if remaining is None:
            return seconds
        if TIMEOUT_HEADER.encode() in call.visit.headers:
            return min(seconds, remaining)
        return min(remaining, self.settings.max_request_timeout)


async def _missing(name: str, _: RpcCall) -> bytes:
    raise RequestError(Code.METHOD_NOT_ALLOWED, f"this server has no {name}; {ELSEWHERE[name]}")


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())

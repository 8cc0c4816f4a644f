"""A gateway in this process whose engine can be held, asked over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from oodguard.server.addresses import listen
from oodguard.server.app import Gateway, create_gateway, lifespan
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.settings import ServeSettings

INFER = "/inference.GRPCInferenceService/ModelInfer"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
WAIT = 20


class Bench:
    """A gateway with an engine that can be held, in this process, and a channel to its gRPC port."""

    def __init__(self, gateway: Gateway, engine: FakeEngine, channel: Any, address: str) -> None:
        self.parts = gateway.parts
        self.engine = engine
        self.channel = channel
        self.address = address
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert gateway.rpc is not None
        self.rpc = gateway.rpc

    def sample(self, series: str) -> float:
        for line in self.parts.metrics.render().decode().splitlines():
            if line.startswith(series + " "):
                return float(line.split()[-1])
        raise KeyError(series)

    def count(self, status: int) -> float:
        return self.sample(f'oodguard_requests_total{{route="{INFER}",status="{status}"}}')

    def rejected(self, code: str) -> float:
        return self.sample(f'oodguard_rejected_total{{code="{code}"}}')

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT):
            while not condition():
                await asyncio.sleep(0.005)

    @contextmanager
    def held(self) -> Iterator[None]:
        gate = self.engine.gate = asyncio.Event()
        try:
            yield
        finally:
            self.engine.gate = None
            gate.set()


@asynccontextmanager
async def bench(bundle: Path, engine: FakeEngine, **settings: Any) -> AsyncIterator[Bench]:
    gateway = create_gateway(ServeSettings(bundle=bundle, watch=False, grpc_port=0, **settings), engine=engine)
    taken = listen("127.0.0.1", 0)
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    assert gateway.rpc is not None
    gateway.rpc.open(taken)
    async with lifespan(gateway.parts, gateway.rpc), grpc.aio.insecure_channel(address) as channel:
        yield Bench(gateway, engine, channel, address)


Trial = Callable[[Bench], Coroutine[Any, Any, None]]


def run_trial(bundle: Path, engine: FakeEngine, story: Trial, **settings: Any) -> None:
    """Run a story against a server with these settings."""

    async def whole() -> None:
        async with bench(bundle, engine, **settings) as one:
            await story(one)

    asyncio.run(whole())


def asking(*images: bytes) -> Any:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images)], "contents": {"bytes_contents": images}}
    return pb.ModelInferRequest(model_name="discs", inputs=[tensor])


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or "", dict(caught.value.trailing_metadata())

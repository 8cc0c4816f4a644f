"""MLServer: raw bodies through a custom route into its own adaptive batching, one batch per core at a time.

Tried and not better on two cores: no batching, inference worker processes (with and without batching), batches of 8,
and its own V2 protocol with base64 strings instead of the custom route.
"""

# No postponed annotations: MLServer wraps the route's method where a string would mean nothing.
import asyncio
import json
import logging
import os
import socket
from typing import Annotated, TypeVar

import mlserver.utils
from fastapi import Body, Response
from graph import Graph, Settings, parse_settings
from mlserver import MLModel, MLServer, ModelSettings
from mlserver import Settings as ServerSettings
from mlserver.context import model_context
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

Tensor = TypeVar("Tensor", RequestInput, ResponseOutput)

TUNED = Settings(workers=0, threads=1, parallel=len(os.sched_getaffinity(0)), batch=4, wait=0.005)


class Guard(MLModel):
    """Batches run in threads of the server's process, at most one per core at a time."""

    async def load(self) -> bool:
        """Load the graph."""
        settings = Settings.from_environment()
        self._graph = Graph.from_environment(threads=settings.threads)
        self._runs = asyncio.Semaphore(settings.parallel)
        return True

    @custom_handler(rest_path="/predict")
    async def raw(self, image: Annotated[bytes, Body(media_type="image/jpeg")]) -> Response:
        """One image as the whole body; `predict` is by now MLServer's batcher around the one below."""
        with model_context(self.settings):
            found = await self.predict(InferenceRequest(inputs=[_tensor(RequestInput, [image])]))
        return Response(found.outputs[0].data.root[0], media_type="application/json")

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One run for a batch."""
        async with self._runs:
            answers = await asyncio.to_thread(self._graph.answer, payload.inputs[0].data.root)
        output = _tensor(ResponseOutput, [json.dumps(answer) for answer in answers])
        return InferenceResponse(model_name=self.name, outputs=[output])


def _tensor(kind: type[Tensor], data: list[bytes] | list[str]) -> Tensor:
    return kind(name="image", shape=[len(data), 1], datatype="BYTES", data=data)


async def serve(port: int, settings: Settings) -> None:
    """Serve until told to stop."""
    logging.disable(logging.WARNING)
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    server = ServerSettings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=ports[0],
        metrics_port=ports[1],
        metrics_endpoint=None,
        parallel_workers=settings.workers,
        debug=False,
        gzip_enabled=False,
    )
    model = ModelSettings(
        name="guard",
        implementation="mlserver_server.Guard",
        max_batch_size=settings.batch,
        max_batch_time=settings.wait,
    )
    await MLServer(server).start([model])


def main() -> None:
    """Serve."""
    port, settings = parse_settings(__doc__, default=TUNED)
    mlserver.utils.install_uvloop_event_loop()
    asyncio.run(serve(port, settings))


if __name__ == "__main__":
    main()

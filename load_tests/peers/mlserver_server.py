"""MLServer on the same graph."""

from __future__ import annotations

import argparse
import asyncio
import os
import logging
from pathlib import Path
from typing import Annotated

from fastapi import Body
from graph import BUNDLE_VARIABLE, Answer, Graph
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import StringCodec
from mlserver.handlers import custom_handler
from mlserver.utils import install_uvloop_event_loop
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput
import json, base64


class Guard(MLModel):
    async def load(self) -> bool:
        self._graph = Graph.from_environment(threads=int(os.environ["PEER_THREADS"]))
        return True

    @custom_handler(rest_path="/predict")
    async def raw(self, image: Annotated[bytes, Body(media_type="image/jpeg")]) -> Answer:
        return (await asyncio.to_thread(self._graph.answer, [image]))[0]

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = [base64.b64decode(i) for i in payload.inputs[0].data.root]
        answers = await asyncio.to_thread(self._graph.answer, images)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(
                    name="answer", shape=[len(answers), 1], datatype="BYTES", data=[json.dumps(a) for a in answers]
                )
            ],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--wait", type=float, default=0.0)
    options = parser.parse_args()
    os.environ[BUNDLE_VARIABLE] = str(options.bundle)
    os.environ["PEER_THREADS"] = str(options.threads)
    install_uvloop_event_loop()
    asyncio.run(serve(options))


async def serve(options) -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=options.port,
        grpc_port=options.port + 1,
        metrics_port=options.port + 2,
        parallel_workers=options.workers,
        debug=False,
        metrics_endpoint=None,
        gzip_enabled=False,
    )
    logging.disable(logging.INFO)
    model = ModelSettings(
        name="guard", implementation="mlserver_server.Guard", max_batch_size=options.batch, max_batch_time=options.wait
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    main()

"""FastAPI and ONNX Runtime: a `def` endpoint in the thread pool, one process per core, one image at a time in each.

`--workers 1 --threads 0 --parallel 0` is how it is written before anybody tunes it: one process, the default 40
threads, ONNX Runtime's default threads. Tried and not better on two cores: one process with two threads, two processes
with two or with 40 threads each.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Annotated

import anyio.to_thread
import uvicorn
from fastapi import Body, FastAPI
from graph import Graph, PeerAnswer, Settings, parse_settings

TUNED = Settings(workers=len(os.sched_getaffinity(0)), threads=1, parallel=1, batch=1, wait=0.0)


def create_app() -> FastAPI:
    """The application; each worker process makes its own."""
    settings = Settings.from_environment()
    graph = Graph.from_environment(threads=settings.threads)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if settings.parallel:
            anyio.to_thread.current_default_thread_limiter().total_tokens = settings.parallel
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/predict")
    def predict(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> PeerAnswer:
        """One image as the whole body."""
        return graph.answer([image])[0]

    return app


def main() -> None:
    """Serve."""
    port, settings = parse_settings(__doc__, default=TUNED)
    uvicorn.run(
        "fastapi_server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        workers=settings.workers,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()

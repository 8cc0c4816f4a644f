"""FastAPI and ONNX Runtime as most people write it, and the same tuned.

plain: one process, a `def` endpoint in the default thread pool, a session with default threads.
tuned: one process a core, one ONNX Runtime thread a run, uvloop and httptools.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI
from graph import BUNDLE_VARIABLE, Answer, Graph

THREADS_VARIABLE = "PEER_THREADS"


def create_app() -> FastAPI:
    """The application; each worker process makes its own."""
    app = FastAPI()
    graph = Graph.from_environment(threads=int(os.environ[THREADS_VARIABLE]))

    @app.post("/predict")
    def predict(image: Annotated[bytes, Body(media_type="image/jpeg")]) -> Answer:
        """One image as the whole body."""
        return graph.answer([image])[0]

    return app


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    os.environ[BUNDLE_VARIABLE] = str(options.bundle)
    os.environ[THREADS_VARIABLE] = str(options.threads)
    uvicorn.run(
        "fastapi_server:create_app",
        factory=True,
        port=options.port,
        workers=options.workers,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()

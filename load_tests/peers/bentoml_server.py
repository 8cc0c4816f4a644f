"""BentoML on the same graph."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Annotated

import bentoml
from graph import Graph, Answer, BUNDLE_VARIABLE

WORKERS = int(os.environ.get("PEER_WORKERS", "1"))
THREADS = int(os.environ.get("PEER_THREADS", "1"))
POOL = int(os.environ.get("PEER_POOL", "1"))


@bentoml.service(workers=WORKERS, threads=POOL)
class Guard:
    def __init__(self) -> None:
        self._graph = Graph.from_environment(threads=THREADS)

    @bentoml.api(route="/predict")
    def predict(self, image: Annotated[Path, bentoml.validators.ContentType("image/jpeg")], /) -> dict:
        return self._graph.answer([image.read_bytes()])[0]

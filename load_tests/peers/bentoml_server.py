"""BentoML: raw bodies, one worker process per core, no metrics, traces or access log.

Tried and not better on two cores: its adaptive batching, which takes JSON lists of base64 strings instead of raw
bodies (batches up to 4), and one worker with two threads.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import bentoml
from graph import SETTINGS_VARIABLE, Graph, PeerAnswer, Settings, parse_settings

TUNED = Settings(workers=len(os.sched_getaffinity(0)), threads=1, parallel=1, batch=1, wait=0.0)
SETTINGS = Settings.from_environment() if SETTINGS_VARIABLE in os.environ else TUNED


@bentoml.service(
    workers=SETTINGS.workers,
    threads=SETTINGS.parallel or 1,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Guard:
    """The service; each worker process makes its own."""

    def __init__(self) -> None:
        self._graph = Graph.from_environment(threads=SETTINGS.threads)

    @bentoml.api(route="/predict")
    def predict(self, image: Annotated[Path, bentoml.validators.ContentType("image/jpeg")], /) -> PeerAnswer:
        """One image as the whole body."""
        return self._graph.answer([image.read_bytes()])[0]


def main() -> None:
    """Serve."""
    port, _ = parse_settings(__doc__, default=TUNED)
    folder = str(Path(__file__).parent)
    command = [sys.executable, "-m", "bentoml", "serve", "bentoml_server:Guard", "--working-dir", folder]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])


if __name__ == "__main__":
    main()

"""The way to an engine that batches by itself: each image is sent at once, with its own deadline."""

from __future__ import annotations

import asyncio
import time

from oodguard.core.errors import QualityError
from oodguard.core.manifest import Manifest
from oodguard.core.preprocessing import Pixels
from oodguard.server.batcher import BatcherEvents, MeasuredImage
from oodguard.server.engines.base import RemoteEngine
from oodguard.server.errors import DeadlineMissed, EngineError, EngineUnavailable, Overloaded


class Sender:
    """What `Batcher` is to an engine in this process.

    ```python
    image = await sender.submit(pixels, deadline=time.monotonic() + 10)
    ```

    There is no queue here: admission bounds the images on their way, and the engine's own queue gathers batches of all
    its callers. An image whose request ended is withdrawn from the engine, too.
    """

    # No inference can hang in this process: the engine watches its servers itself.
    oldest_run = 0.0

    def __init__(self, engine: RemoteEngine, manifest: Manifest, *, events: BatcherEvents) -> None:
        self._engine = engine
        self._manifest = manifest
        self._events = events
        self._running: set[asyncio.Task[MeasuredImage]] = set()

    def submit(
        self, pixels: Pixels, *, deadline: float, source: str | None = None, neighbours: bool = False
    ) -> asyncio.Future[MeasuredImage]:
        """Send one image of a known source, and ask for its `neighbours` or not.

        `deadline` is a time of `time.monotonic`.

        Cancel the future to withdraw the image.

        The future fails with `DeadlineMissed`, `Overloaded`, `EngineError` or `EngineUnavailable`.
        """
        task = asyncio.get_running_loop().create_task(self._run(pixels, deadline, source, neighbours))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[MeasuredImage]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Seen, even where the request gave up on its other images first.
            task.exception()

    async def _run(self, pixels: Pixels, deadline: float, source: str | None, neighbours: bool) -> MeasuredImage:
        started = time.monotonic()
        try:
            outputs = await self._engine.infer(pixels[None], deadline=deadline, neighbours=neighbours)
            outputs.require_rows(1)
            measured = self._manifest.measure(outputs, source=source)
        except DeadlineMissed:
            self._events.expired()
            raise
        except (Overloaded, EngineUnavailable):
            raise
        except (EngineError, QualityError) as failed:
            self._events.engine_error(failed)
            raise failed if isinstance(failed, EngineError) else EngineError(str(failed)) from None
        self._events.measured()
        return MeasuredImage(measured, 0, 0.0, time.monotonic() - started)

    async def drained(self) -> None:
        """Wait until nothing is on its way."""
        while self._running:
            await asyncio.wait(set(self._running))

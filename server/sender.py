"""The way to an engine that batches by itself: every image is sent at once, with its own deadline."""

from __future__ import annotations

import asyncio
import time

from oodguard.core.errors import QualityError
from oodguard.core.manifest import Manifest
from oodguard.core.preprocessing import Pixels
from oodguard.server.batcher import Answer, Watch
from oodguard.server.engines.base import RemoteEngine
from oodguard.server.errors import DeadlineMissed, EngineError, EngineUnavailable, Overloaded


class Sender:
    """What `Batcher` is to an engine in this process.

    ```python
    answer = await sender.submit(pixels, deadline=time.monotonic() + 10)
    ```

    There is no queue here: admission bounds what is on its way, and the engine's own queue gathers batches of all its
    callers. An image whose request ended is withdrawn from the engine, too.
    """

    # Nothing waits, and no inference can hang in this process: the engine watches its servers itself.
    waiting = 0
    oldest_run = 0.0

    def __init__(self, engine: RemoteEngine, manifest: Manifest, *, watch: Watch) -> None:
        self._engine = engine
        self._manifest = manifest
        self._watch = watch
        self._running: set[asyncio.Task[Answer]] = set()

    def submit(self, pixels: Pixels, *, deadline: float) -> asyncio.Future[Answer]:
        """Send one image; `deadline` is a time of `time.monotonic`. Cancel the future to withdraw it.

        The future fails with `DeadlineMissed`, `Overloaded`, `EngineError` or `EngineUnavailable`.
        """
        task = asyncio.get_running_loop().create_task(self._run(pixels, deadline))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Answer]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Seen, even where the request gave up on its other images first.
            task.exception()

    async def _run(self, pixels: Pixels, deadline: float) -> Answer:
        started = time.monotonic()
        try:
            measured = self._manifest.measure(await self._engine.infer(pixels[None], deadline=deadline))
        except DeadlineMissed:
            self._watch.expired()
            raise
        except (Overloaded, EngineUnavailable):
            raise
        except (EngineError, QualityError) as failed:
            self._watch.engine_error()
            raise failed if isinstance(failed, EngineError) else EngineError(str(failed)) from None
        return Answer(measured, 0, 0.0, time.monotonic() - started)

    async def drained(self) -> None:
        """Wait until nothing is on its way."""
        while self._running:
            await asyncio.wait(set(self._running))

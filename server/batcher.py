"""The batching engine: images of many requests in, batches out, each image's measurements back to who asked.

No polling: a batch starts when an image arrives at an idle engine, when a batch is full, when the oldest image has
waited `max_delay`, or when a running batch ends; whichever is first.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from oodguard.core.errors import QualityError
from oodguard.core.manifest import Manifest
from oodguard.core.preprocessing import Pixels
from oodguard.core.verdict import Measured
from oodguard.server.engines.base import Batch, Engine
from oodguard.server.errors import DeadlineMissed, EngineError, EngineUnavailable


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """One image's `row` of a `measured` batch, and the seconds the image waited (`queued`) and ran."""

    measured: Measured
    row: int
    queued: float
    ran: float


@dataclass(slots=True, eq=False)
class QueuedImage:
    """One image in the queue, with a future of its own: another image's failure or departure does not touch it."""

    pixels: Pixels
    deadline: float
    future: asyncio.Future[MeasuredImage]
    arrived: float
    source: str | None = None

    @property
    def abandoned(self) -> bool:
        """Whether the client has gone."""
        return self.future.done()

    def fail(self, error: Exception) -> None:
        """Fail the image, unless it was answered or abandoned before."""
        if not self.future.done():
            self.future.set_exception(error)


class BatcherEvents(Protocol):
    """What a batcher reports: each batch that starts, each image dropped as late, each batch that failed, each
    that was measured; that the engine is gone; that a batch has been running for more than so many seconds, and that
    none of those is left.
    """

    def batch(self, images: int) -> None: ...  # noqa: D102
    def expired(self) -> None: ...  # noqa: D102
    def engine_error(self, error: Exception) -> None: ...  # noqa: D102
    def measured(self) -> None: ...  # noqa: D102
    def unavailable(self, reason: str) -> None: ...  # noqa: D102
    def stalled(self, seconds: float) -> None: ...  # noqa: D102
    def recovered(self) -> None: ...  # noqa: D102


class Batcher:
    """Forms batches for one engine.

    ```python
    image = await batcher.submit(pixels, deadline=time.monotonic() + 10)
    verdict = calibration.verdict(image.measured, image.row, classes=classes, thresholds=thresholds)
    ```

    An idle engine gets an image at once. While some of its slots run and one is free, a batch that is not full waits
    up to `max_delay` seconds for more images, and takes its slot's share of a longer queue. Images whose client has
    gone or whose deadline has passed are dropped when a batch is formed, never computed. `clock` must run as fast as
    the event loop's, whose timers are used.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        *,
        max_batch: int,
        max_delay: float,
        stall_after: float,
        events: BatcherEvents,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._manifest = manifest
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._stall_after = stall_after
        self._events = events
        self._clock = clock
        self._queue: deque[QueuedImage] = deque()
        self._running: dict[asyncio.Task[None], float] = {}
        self._stalled: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        shape = (max_batch, *manifest.preprocessing.shape)
        # One buffer for each slot, reused: a batch is copied into it and never reallocated.
        self._buffers: list[Batch] = [np.empty(shape, dtype=np.uint8) for _ in range(engine.slots)]
        self._slots = engine.slots
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def oldest_run(self) -> float:
        """Seconds that the longest running batch has been running; 0 when none runs."""
        return self._clock() - min(self._running.values()) if self._running else 0.0

    def submit(self, pixels: Pixels, *, deadline: float, source: str | None = None) -> asyncio.Future[MeasuredImage]:
        """Queue one image of a source that the manifest knows; `deadline` is a time of the clock.

        Cancel the future to withdraw the image.

        The future fails with `DeadlineMissed`, `EngineError` or `EngineUnavailable`.
        """
        future: asyncio.Future[MeasuredImage] = asyncio.get_running_loop().create_future()
        item = QueuedImage(pixels, deadline, future, arrived=self._clock(), source=source)
        self._idle.clear()
        self._queue.append(item)
        self._dispatch()
        return future

    def _dispatch(self) -> None:
        """Start every batch that may start now."""
        while self._queue and self._buffers:
            wait = 0.0
            if self._running and len(self._queue) < self._max_batch:
                wait = self._queue[0].arrived + self._max_delay - self._clock()
            if wait > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._ripe)
                return
            items = self._take()
            if items:
                self._start(items)
        if not (self._queue or self._running):
            self._idle.set()

    def _ripe(self) -> None:
        self._timer = None
        self._dispatch()

    def _take(self) -> list[QueuedImage]:
        """The next batch: its slot's share of what waits.

        More would make the last images wait for the first ones while the slot that ends next finds nothing.
        """
        items: list[QueuedImage] = []
        now = self._clock()
        size = min(self._max_batch, -(-len(self._queue) // self._slots))
        while self._queue and len(items) < size:
            item = self._queue.popleft()
            if item.abandoned:
                continue
            if item.deadline <= now:
                self._events.expired()
                item.fail(DeadlineMissed("the deadline passed while the image was waiting"))
            else:
                items.append(item)
        return items

    def _start(self, items: list[QueuedImage]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        buffer = self._buffers.pop()
        task = asyncio.get_running_loop().create_task(self._run(items, buffer))
        self._running[task] = self._clock()
        alarm = asyncio.get_running_loop().call_later(self._stall_after, self._alarm, task)

        def ended(done: asyncio.Task[None]) -> None:
            alarm.cancel()
            del self._running[done]
            self._buffers.append(buffer)
            if done in self._stalled:
                self._stalled.discard(done)
                if not self._stalled:
                    self._events.recovered()
            self._dispatch()

        task.add_done_callback(ended)

    def _alarm(self, task: asyncio.Task[None]) -> None:
        self._stalled.add(task)
        self._events.stalled(self._stall_after)

    async def _run(self, items: list[QueuedImage], buffer: Batch) -> None:
        started = self._clock()
        self._events.batch(len(items))
        batch = buffer[: len(items)]
        error: Exception
        try:
            np.stack([item.pixels for item in items], out=batch)
            outputs = await self._engine.infer(batch)
            # Images of all sources share a batch; nearly always there is one.
            outputs.require_rows(len(items))
            measured = {one: self._manifest.measure(outputs, source=one) for one in {item.source for item in items}}
        except EngineUnavailable as unavailable:
            self._events.unavailable(str(unavailable))
            error = unavailable
        except (EngineError, QualityError) as failed:
            self._events.engine_error(failed)
            error = failed if isinstance(failed, EngineError) else EngineError(str(failed))
        except Exception as unexpected:  # a failed batch must reach every waiter, whatever it was
            self._events.engine_error(unexpected)
            error = EngineError(f"inference failed ({type(unexpected).__name__})")
        else:
            self._events.measured()
            ran = self._clock() - started
            for row, item in enumerate(items):
                if not item.future.done():
                    item.future.set_result(MeasuredImage(measured[item.source], row, started - item.arrived, ran))
            return
        for item in items:
            item.fail(error)

    async def drained(self) -> None:
        """Wait until nothing is queued and nothing runs."""
        await self._idle.wait()

"""Keeping a sample of the flagged images, so that people can label what the guard did not know. Off by default.

The server then stores pictures that callers send: say so in your privacy notice, and let old ones expire.
"""

from __future__ import annotations

import random
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from oodguard.core.answers import FlaggedSample, ModelRef
from oodguard.core.errors import EnvironmentProblem
from oodguard.core.formats import FORMATS, format_of
from oodguard.core.verdict import Verdict
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.places import Place

# Images that may wait to be written; more are dropped, so that a slow place does not fill the memory.
WAITING = 16


class Sampler:
    """Writes a share of the flagged images, each with its verdict beside it, until the place is full.

    ```python
    sampler = Sampler(Folder(Path("flagged")), rate=0.1, max_bytes=2**28, metrics=metrics)
    sampler.offer(data, verdict, model=ref, accept=0.95)
    ```

    One thread writes, so requests do not wait. An image that cannot be written is counted as failed and dropped.
    """

    def __init__(self, place: Place, *, rate: float, max_bytes: int, metrics: Metrics, seed: int | None = None) -> None:
        self._place = place
        self._rate = rate
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._random = random.Random(seed)
        self._room = threading.BoundedSemaphore(WAITING)
        # The thread alone touches what follows, but for `_closing`.
        self._bytes = 0
        self._closing = self._failed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampling")
        self._thread.submit(self._look)

    def _look(self) -> None:
        try:
            self._bytes += self._place.held(self._max_bytes)
        except EnvironmentProblem as error:
            log.error("%s", error)

    def offer(self, data: bytes, verdict: Verdict, *, model: ModelRef, accept: float) -> None:
        """Keep the image if it is flagged and drawn, at the sampling rate. Never waits and never raises."""
        if not verdict.is_ood or self._random.random() >= self._rate:
            return
        if not self._room.acquire(blocking=False):
            self._metrics.samples["dropped"].inc()
            return
        sample = FlaggedSample.of(verdict, model=model, accept=accept, time=datetime.now(UTC))
        self._thread.submit(self._write, data, sample)

    def _write(self, data: bytes, sample: FlaggedSample) -> None:
        stem = f"{sample.time:%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"
        suffix = (format_of(data) or FORMATS[0]).suffixes[0]
        try:
            if self._bytes + len(data) > self._max_bytes:
                self._metrics.samples["dropped"].inc()
                return
            if self._closing and self._failed:
                raise EnvironmentProblem("a flagged image is given up: the place failed, and the server ends")
            # The sidecar last: an image without one is a pair still being written.
            self._place.put(f"{stem}{suffix}", data)
            self._place.put(f"{stem}.json", sample.model_dump_json().encode())
            self._metrics.samples["kept"].inc()
            self._bytes += len(data)
            self._failed = False
        except EnvironmentProblem as error:
            self._failed = True
            self._metrics.samples["failed"].inc()
            log.error("%s", error)
        finally:
            self._room.release()

    def close(self) -> None:
        """Write what waits, unless the place does not answer."""
        self._closing = True
        self._thread.shutdown(wait=True)

"""Sampling the flagged images, so that people can label what the guard did not know. Off by default.

The server then hands pictures that callers send to others: say so in your privacy notice, and let old ones expire.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Protocol

from oodguard.core.answers import FlaggedSample, ModelRef
from oodguard.core.errors import EnvironmentProblem
from oodguard.core.explanation import Explanation
from oodguard.core.formats import FORMATS, format_of
from oodguard.core.verdict import Verdict
from oodguard.server.backlog import Backlog
from oodguard.server.cells import SAMPLED, Cells, PrivateCells
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.places import Place, stored

# Flagged images that may wait, and their bytes; more are dropped, so that a slow taker does not fill the memory.
WAITING = 16
WAITING_BYTES = 64 * 1024 * 1024


class Taker(Protocol):
    """Where drawn images go. `take` never waits and never raises."""

    def take(self, data: bytes, sample: FlaggedSample) -> None:
        """Take an image and its sidecar, or drop and count it."""

    def close(self) -> None:
        """End what is under way."""


class Sampler:
    """Draws a share of the flagged images and hands each to every taker.

    ```python
    sampler = Sampler([Keeper(Folder(Path("flagged")), max_bytes=2**28, metrics=metrics)], rate=0.1)
    sampler.offer(data, verdict, model=ref, accept=0.95)
    ```
    """

    def __init__(self, takers: Sequence[Taker], *, rate: float, seed: int | None = None) -> None:
        self._takers = takers
        self._rate = rate
        self._random = random.Random(seed)

    def offer(
        self,
        data: bytes,
        verdict: Verdict,
        *,
        model: ModelRef,
        accept: float,
        explain: Callable[[], Explanation] | None = None,
    ) -> None:
        """Hand the image on if it is flagged and drawn, at the sampling rate, with what `explain` says of it.

        Never waits and never raises.
        """
        if not verdict.is_ood or self._random.random() >= self._rate:
            return
        explanation = explain() if explain and verdict.explanation is None else verdict.explanation
        sample = FlaggedSample.of(verdict, model=model, accept=accept, time=datetime.now(UTC), explanation=explanation)
        for taker in self._takers:
            taker.take(data, sample)

    def close(self) -> None:
        """End what the takers do."""
        for taker in self._takers:
            taker.close()


class Keeper:
    """Writes images to a place, each with its verdict beside it, until the place is full.

    One thread writes, so requests do not wait. An image that cannot be written is counted as failed and dropped.
    """

    def __init__(self, place: Place, *, max_bytes: int, metrics: Metrics, cells: Cells | None = None) -> None:
        """`cells`: where workers who keep images in one place add up their bytes."""
        self._cells = cells or PrivateCells()
        self._place = place
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._backlog = Backlog(images=WAITING, size=WAITING_BYTES)
        # The thread alone touches what follows, but for `_closing`.
        self._bytes = 0
        self._closing = self._failed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampling")
        self._thread.submit(self._look)

    def _look(self) -> None:
        try:
            # What workers have kept until now is counted in their cells, and lies there.
            self._bytes += self._place.held(self._max_bytes) - self._kept
        except EnvironmentProblem as error:
            log.error("%s", error)

    @property
    def _kept(self) -> int:
        return round(sum(row[SAMPLED] for row in (self._cells.row, *self._cells.others)))

    def take(self, data: bytes, sample: FlaggedSample) -> None:
        """Write the image soon; count it as dropped when too many wait."""
        if self._backlog.enter(len(data)):
            self._thread.submit(self._write, data, sample)
        else:
            self._metrics.samples["dropped"].inc()

    def _write(self, data: bytes, sample: FlaggedSample) -> None:
        # Named by content: the same picture sent again is kept once.
        stem = hashlib.sha256(data).hexdigest()
        image, sidecar = f"{stem}{(format_of(data) or FORMATS[0]).suffixes[0]}", f"{stem}.json"
        text = sample.model_dump_json().encode()
        size = stored(len(data)) + stored(len(text))
        try:
            if not (self._closing and self._failed) and self._place.has(sidecar):
                self._metrics.samples["repeated"].inc()
                return
            if self._bytes + self._kept + size > self._max_bytes:
                self._metrics.samples["dropped"].inc()
                return
            if self._closing and self._failed:
                raise EnvironmentProblem("a flagged image is given up: the place failed, and the server ends")
            # The sidecar last: an image without one is a pair still being written.
            self._place.put(image, data)
            try:
                self._place.put(sidecar, text)
            except EnvironmentProblem:
                self._place.remove(image)
                raise
            self._metrics.samples["kept"].inc()
            self._cells.row[SAMPLED] += size
            self._failed = False
        except EnvironmentProblem as error:
            self._failed = True
            self._metrics.samples["failed"].inc()
            log.error("%s", error)
        finally:
            self._backlog.leave(len(data))

    def close(self) -> None:
        """Write what waits, unless the place does not answer."""
        self._closing = True
        self._thread.shutdown(wait=True)

"""The last minute's traffic, as differences of the counters and histograms that Prometheus reads."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from oodguard.core.answers import ModelRef
from oodguard.core.frozen import Frozen
from oodguard.server.metrics import Metrics, Reading
from oodguard.server.service import GuardService

INTERVAL = 5.0
INTERVALS = 12


class Latency(Frozen):
    """Milliseconds that answered requests took, estimated within the histogram's buckets."""

    p50: float
    p95: float


class Queue(Frozen):
    """Images admitted and not yet answered: now, at most so many at the ends of intervals, and allowed."""

    images: int
    highest: int
    limit: int


class Interval(Frozen):
    """One interval of the window."""

    seconds: float
    images: int
    flagged: int
    refused: int


class TrafficReport(Frozen):
    """What happened in the last `window_s` seconds: a minute, or less after a start.

    `flagged_share` is None while no image was answered, `latency_ms` while no request was. `refused` counts images and
    requests. `not_ready` says why no traffic should come here now.
    """

    model: ModelRef
    not_ready: str | None
    window_s: float
    images: int
    images_per_s: float
    flagged_share: float | None
    refused: int
    latency_ms: Latency | None
    queue: Queue
    intervals: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """The totals at one time."""

    at: float
    images: int
    flagged: int
    refused: int
    latency: tuple[float, ...]
    queue: int


class Traffic:
    """Samples the metrics every few seconds, so that a request costs nothing more, and reports their differences."""

    def __init__(self, service: GuardService, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._last: dict[tuple[str, bool], float] = {}
        self._images = self._flagged = 0
        self._samples: deque[Sample] = deque([self._sample()], maxlen=INTERVALS + 1)

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            self.tick()

    def tick(self) -> None:
        """Take one sample."""
        self._samples.append(self._sample())

    def _sample(self) -> Sample:
        reading = self._service.metrics.read()
        self._add(reading)
        return Sample(
            at=self._clock(),
            images=self._images,
            flagged=self._flagged,
            refused=round(reading.refused),
            latency=reading.latency,
            queue=self._service.admission.images,
        )

    def _add(self, reading: Reading) -> None:
        # By series: those of a replaced model disappear, which must not look like images taken back.
        for series, total in reading.answered.items():
            more = total - self._last.get(series, 0.0)
            more = round(total if more < 0 else more)
            self._images += more
            self._flagged += more * series[1]
        self._last = dict(reading.answered)

    def report(self) -> TrafficReport:
        """The window that ends now."""
        manifest = self._service.model.manifest
        samples = [*self._samples, self._sample()]
        first, last = samples[0], samples[-1]
        seconds = max(last.at - first.at, 1e-3)
        images = last.images - first.images
        return TrafficReport(
            model=ModelRef(name=manifest.name, version=manifest.version),
            not_ready=self._service.not_ready,
            window_s=round(seconds, 3),
            images=images,
            images_per_s=round(images / seconds, 3),
            flagged_share=(last.flagged - first.flagged) / images if images else None,
            refused=last.refused - first.refused,
            latency_ms=_latency([b - a for a, b in zip(first.latency, last.latency, strict=True)]),
            queue=Queue(
                images=last.queue,
                highest=max(sample.queue for sample in samples),
                limit=self._service.admission.max_images,
            ),
            intervals=tuple(
                Interval(
                    seconds=round(b.at - a.at, 3),
                    images=b.images - a.images,
                    flagged=b.flagged - a.flagged,
                    refused=b.refused - a.refused,
                )
                for a, b in pairwise(samples)
            ),
        )


def _latency(counts: Sequence[float]) -> Latency | None:
    if sum(counts) < 1:
        return None
    return Latency(p50=quantile(counts, 0.5), p95=quantile(counts, 0.95))


def quantile(counts: Sequence[float], share: float) -> float:
    """Milliseconds that a share of requests stayed below, evenly spread within its bucket.

    What lies in the last, open bucket is taken to be its lower bound, as Prometheus does.
    """
    bounds = (0.0, *Metrics.REQUEST_SECONDS)
    wanted = share * sum(counts)
    before = 0.0
    for low, high, count in zip(bounds, bounds[1:], counts, strict=False):
        if count and before + count >= wanted:
            return round(1e3 * (low + (high - low) * (wanted - before) / count), 3)
        before += count
    return 1e3 * bounds[-1]

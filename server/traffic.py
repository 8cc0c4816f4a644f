"""The last minute's traffic, as differences of what the metrics count."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from oodguard.core.answers import ModelRef
from oodguard.core.frozen import Frozen
from oodguard.server.admission import Admission
from oodguard.server.health import Health
from oodguard.server.metrics import REQUEST_SECONDS, Metrics, Totals
from oodguard.server.serving import Serving

INTERVAL = 5.0
INTERVALS = 12


class Latency(Frozen):
    """Milliseconds that answered requests took, estimated within the histogram's buckets."""

    p50: float
    p95: float


class Queue(Frozen):
    """Images admitted and not yet answered: now, the highest number at the end of an interval, and the limit."""

    images: int
    highest: int
    limit: int


class TrafficInterval(Frozen):
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
    intervals: tuple[TrafficInterval, ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """The totals at one time, and the images inside."""

    at: float
    totals: Totals
    queue: int


class Traffic:
    """Looks at the metrics every few seconds, so that a request costs nothing more, and reports their differences."""

    def __init__(
        self,
        metrics: Metrics,
        admission: Admission,
        serving: Serving,
        health: Health,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._admission = admission
        self._serving = serving
        self._health = health
        self._clock = clock
        self._moments: deque[Moment] = deque([self._moment()], maxlen=INTERVALS + 1)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            self.tick()

    def tick(self) -> None:
        """Look once."""
        self._moments.append(self._moment())

    def _moment(self) -> Moment:
        return Moment(self._clock(), self._metrics.totals(), self._admission.images + self._metrics.inside_elsewhere)

    def report(self) -> TrafficReport:
        """The window that ends now."""
        moments = [*self._moments, self._moment()]
        first, last = moments[0], moments[-1]
        whole = _interval(first, last)
        latency = [b - a for a, b in zip(first.totals.latency, last.totals.latency, strict=True)]
        return TrafficReport(
            model=self._serving.model.ref,
            not_ready=self._health.not_ready,
            window_s=whole.seconds,
            images=whole.images,
            images_per_s=round(whole.images / whole.seconds, 3),
            flagged_share=whole.flagged / whole.images if whole.images else None,
            refused=whole.refused,
            latency_ms=Latency(p50=quantile(latency, 0.5), p95=quantile(latency, 0.95)) if any(latency) else None,
            queue=Queue(
                images=last.queue,
                highest=max(moment.queue for moment in moments),
                limit=self._admission.max_images * self._metrics.processes,
            ),
            intervals=tuple(_interval(a, b) for a, b in pairwise(moments)),
        )


def _interval(a: Moment, b: Moment) -> TrafficInterval:
    return TrafficInterval(
        seconds=round(max(b.at - a.at, 1e-3), 3),
        images=b.totals.images - a.totals.images,
        flagged=b.totals.flagged - a.totals.flagged,
        refused=b.totals.refused - a.totals.refused,
    )


def quantile(counts: Sequence[float], share: float) -> float:
    """Milliseconds that a share of requests stayed below; requests are taken to be spread evenly within a bucket.

    A value in the last, open bucket counts as that bucket's lower bound, as in Prometheus.
    """
    bounds = (0.0, *REQUEST_SECONDS)
    wanted = share * sum(counts)
    before = 0.0
    for low, high, count in zip(bounds, bounds[1:], counts, strict=False):
        if count and before + count >= wanted:
            return round(1e3 * (low + (high - low) * (wanted - before) / count), 3)
        before += count
    return 1e3 * bounds[-1]

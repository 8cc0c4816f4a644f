"""A load: when its requests are due, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from oodguard.load_tests.harness import percentile

Arrivals = Literal["constant", "poisson"]
# What a server answers that has no room, is not ready or has no time left: it did not fail on the request.
SHED = ("429", "503", "504")


def schedule(rate: float, seconds: float, *, arrivals: Arrivals = "poisson", seed: int = 0) -> list[float]:
    """When requests are due, in seconds from the start, at `rate` a second over `seconds`.

    ```python
    schedule(4, 1, arrivals="constant")  # [0.0, 0.25, 0.5, 0.75]
    ```
    """
    if rate <= 0 or seconds <= 0:
        raise ValueError(f"rate and seconds must be positive; got {rate} and {seconds}")
    count = max(round(rate * seconds), 1)
    if arrivals == "constant":
        return [index / rate for index in range(count)]
    # A Poisson process of a known count is that many uniform moments: every seed offers the same load.
    return sorted(np.random.default_rng(seed).uniform(0, seconds, count).tolist())


@dataclass(frozen=True)
class LoadResult:
    """What came of one load of `seconds`.

    `offered` is in requests a second, 0 in a closed loop. `outcomes` counts statuses, `broken` (no answer) and
    `timeout`. `latencies` are those of 2xx answers in milliseconds, sorted. `late_p99_ms` is how long after its moment
    a request left, and `client_cpu` this process's processor time as a share of one core: both say whether the client
    kept up.
    """

    offered: float
    seconds: float
    outcomes: dict[str, int]
    latencies: tuple[float, ...]
    late_p99_ms: float
    client_cpu: float

    def count(self, *names: str) -> int:
        """How many requests ended as any of `names`."""
        return sum(self.outcomes.get(name, 0) for name in names)

    @property
    def accepted(self) -> int:
        """Requests answered with 2xx."""
        return len(self.latencies)

    @property
    def rate(self) -> float:
        """Accepted requests a second."""
        return self.accepted / self.seconds

    @property
    def failed(self) -> int:
        """Requests that were not accepted."""
        return sum(self.outcomes.values()) - self.accepted

    @property
    def errors(self) -> int:
        """Requests that were neither accepted nor refused with 429, 503 or 504."""
        return self.failed - self.count(*SHED)

    def latency(self, share: float) -> float:
        """A percentile of the accepted requests' latencies, in milliseconds."""
        return percentile(self.latencies, share)

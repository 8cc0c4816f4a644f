"""Counts of a load test: added up in one process, sent from workers to their master, read by thresholds and summary."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from oodguard.load_tests.answers import Answer
from oodguard.load_tests.harness import percentile
from oodguard.load_tests.load import SHED


@dataclass
class Tally:
    """What came of some requests. `latencies` counts 2xx answers by milliseconds."""

    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: Counter[float] = field(default_factory=Counter)
    images: int = 0
    flagged: int = 0
    unusable: int = 0

    def add(self, answer: Answer, milliseconds: float) -> None:
        """Count one request."""
        self.outcomes[answer.outcome] += 1
        self.images += answer.images
        self.flagged += answer.flagged
        self.unusable += answer.unusable
        if answer.outcome == "200":
            # Tenths up to a second, then tenths of a percent: a long test must not send every latency anywhere.
            self.latencies[round(milliseconds, 1) if milliseconds < 1000 else float(f"{milliseconds:.4g}")] += 1

    def merge(self, other: Tally) -> None:
        """Add another's counts."""
        self.outcomes.update(other.outcomes)
        self.latencies.update(other.latencies)
        self.images += other.images
        self.flagged += other.flagged
        self.unusable += other.unusable

    @property
    def requests(self) -> int:
        """All of them."""
        return self.outcomes.total()

    @property
    def answered(self) -> int:
        """Those answered with 200."""
        return self.outcomes["200"]

    @property
    def shed(self) -> int:
        """Those the server refused because it had no room or no time."""
        return sum(self.outcomes[status] for status in SHED)

    @property
    def errors(self) -> int:
        """All others."""
        return self.requests - self.answered - self.shed

    def share(self, count: int) -> float:
        """A share of the requests; of none it is 0."""
        return count / self.requests if self.requests else 0.0

    @property
    def flagged_share(self) -> float:
        """The share of answered images that are out of distribution."""
        return self.flagged / self.images if self.images else 0.0

    def latency(self, share: float) -> float:
        """A percentile of the answered requests' latencies, in milliseconds; NaN of none."""
        return percentile(sorted(self.latencies.elements()), share)


@dataclass
class Tallies:
    """A `Tally` for each kind of request."""

    kinds: dict[str, Tally] = field(default_factory=dict)

    def of(self, kind: str) -> Tally:
        """The tally of one kind."""
        return self.kinds.setdefault(kind, Tally())

    @property
    def total(self) -> Tally:
        """All kinds together."""
        total = Tally()
        for tally in self.kinds.values():
            total.merge(tally)
        return total

    def take(self) -> dict[str, Any]:
        """The counts as a message, and begin again from nothing."""
        kinds, self.kinds = self.kinds, {}
        return {
            kind: [
                dict(tally.outcomes),
                [[milliseconds, count] for milliseconds, count in tally.latencies.items()],
                [tally.images, tally.flagged, tally.unusable],
            ]
            for kind, tally in kinds.items()
        }

    def receive(self, message: dict[str, Any]) -> None:
        """Add the counts of a message that `take` made."""
        for kind, (outcomes, latencies, counts) in message.items():
            self.of(kind).merge(Tally(Counter(outcomes), Counter(dict(latencies)), *counts))

"""What a load test must keep to: thresholds as options, and the verdict that sets the exit code."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oodguard.load_tests.tally import Tally


@dataclass(frozen=True)
class Threshold:
    """An option that names a bound, and what is held against it: a number of the tally and the test's seconds."""

    option: str
    default: float | None
    words: str
    read: Callable[[Tally, float], float]
    least: bool = False

    @property
    def name(self) -> str:
        """The option's name in parsed options."""
        return self.option.removeprefix("--").replace("-", "_")


THRESHOLDS = (
    Threshold("--max-p50-ms", None, "p50 of answered requests, ms", lambda t, s: t.latency(50)),
    Threshold("--max-p99-ms", None, "p99 of answered requests, ms", lambda t, s: t.latency(99)),
    Threshold("--max-error-share", 0.0, "share of requests that failed", lambda t, s: t.share(t.errors)),
    Threshold("--max-shed-share", None, "share of requests that were shed", lambda t, s: t.share(t.shed)),
    Threshold("--min-images-per-second", None, "answered images a second", lambda t, s: t.images / s, least=True),
)


@dataclass(frozen=True)
class Check:
    """One threshold, what was measured, and whether it was kept."""

    words: str
    bound: float
    found: float
    kept: bool

    @property
    def sentence(self) -> str:
        """As a person reads it."""
        return f"{'kept' if self.kept else 'MISSED'}: {self.words}: {self.found:.4g}, bound {self.bound:g}"


def add_thresholds(parser: Any) -> None:
    """Declare the options; locust shows them on its page, too."""
    for threshold in THRESHOLDS:
        bound = "at least" if threshold.least else "at most"
        parser.add_argument(
            threshold.option, type=float, default=threshold.default, help=f"{threshold.words}: {bound} this, or exit 1"
        )


def check(options: Namespace, total: Tally, seconds: float) -> list[Check]:
    """Every threshold that was given. A test in which nothing was answered keeps none of them."""
    checks = [Check("requests answered", 1, total.answered, total.answered >= 1)]
    for threshold in THRESHOLDS:
        given = getattr(options, threshold.name)
        if given in (None, ""):
            continue
        bound, found = float(given), threshold.read(total, seconds)
        kept = not math.isnan(found) and (found >= bound if threshold.least else found <= bound)
        checks.append(Check(threshold.words, bound, found, kept))
    return checks

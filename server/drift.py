"""How the scores of answered images are distributed: what drift is read from.

Only counts are kept, so the sum over workers and replicas is exact and every window is a matter of the query.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from oodguard.export.contract import Manifest, Verdict

# Shares of the ID images that score lower. The tail is finer: that is where out-of-distribution images land.
BOUNDS = (*(round(0.05 * step, 2) for step in range(1, 20)), 0.975, 0.99, 1.0)
LABELS = tuple(f"{bound:g}" if bound < 1 else "+Inf" for bound in BOUNDS)


class Tally:
    """Counts of shares by `BOUNDS`, inclusive above as Prometheus has it."""

    def __init__(self) -> None:
        self.counts = [0] * len(BOUNDS)
        self.total = 0.0

    def add(self, share: float) -> None:
        """Count one share, 0 to 1."""
        self.counts[min(bisect_left(BOUNDS, share), len(BOUNDS) - 1)] += 1
        self.total += share

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound."""
        found: list[tuple[str, float]] = []
        reached = 0
        for label, count in zip(LABELS, self.counts, strict=True):
            reached += count
            found.append((label, float(reached)))
        return found


class Drift(Collector):
    """The percentiles and flags of every answered image.

    A percentile is uniform on ID images by construction: `oodguard_expected_share{le}` is the share that belongs below
    each bound, whatever the model, so the distance to it is one line of PromQL. Buckets in percentiles are buckets
    placed at the calibration's own quantiles.
    """

    def __init__(self) -> None:
        self._fused = Tally()
        self._scores: dict[str, Tally] = {}
        self._flags: dict[str, int] = {}
        self._accept = 0.0

    def model(self, manifest: Manifest, accept: float) -> None:
        """Take over the scores of the model now served, judged by default at `accept`; the counts go on."""
        names = [entry.name for entry in manifest.scores]
        self._scores = {name: self._scores.get(name, Tally()) for name in names}
        self._flags = {name: self._flags.get(name, 0) for name in names}
        self._accept = accept

    def count(self, verdict: Verdict) -> None:
        """Count one answered image."""
        self._fused.add(verdict.percentile / 100)
        for name, score in verdict.scores.items():
            tally = self._scores.get(name)
            if tally is None:  # the model may have been replaced since
                continue
            tally.add(score.percentile / 100)
            self._flags[name] += score.is_ood

    def collect(self) -> Iterator[Metric]:
        """The series, for a scrape."""
        fused = HistogramMetricFamily(
            "oodguard_fused_percentile", "Share of ID images with a lower fused score, of each image answered."
        )
        fused.add_metric([], self._fused.buckets(), self._fused.total)
        yield fused
        scores = HistogramMetricFamily(
            "oodguard_score_percentile",
            "Share of ID images with a lower score, of each image answered.",
            labels=["score"],
        )
        flags = CounterMetricFamily(
            "oodguard_score_flags", "Images that a score alone puts out of distribution.", labels=["score"]
        )
        for name, tally in self._scores.items():
            scores.add_metric([name], tally.buckets(), tally.total)
            flags.add_metric([name], self._flags[name])
        yield scores
        yield flags
        expected = GaugeMetricFamily(
            "oodguard_expected_share", "Share of ID images below a bound of the percentile histograms.", labels=["le"]
        )
        for label, bound in zip(LABELS, BOUNDS, strict=True):
            expected.add_metric([label], bound)
        yield expected
        yield GaugeMetricFamily(
            "oodguard_expected_ood_share", "Share of ID images that the calibration flags.", value=1.0 - self._accept
        )

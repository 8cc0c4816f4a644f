"""How the scores of answered images are distributed: what drift is read from.

Only counts are kept, so sums over replicas are exact, and the query chooses the window.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from oodguard.core.manifest import DEFAULT_SOURCE, Manifest
from oodguard.core.targets import Targets
from oodguard.core.verdict import Verdict
from oodguard.server.cells import Cells, Numbers, PrivateCells

# Shares of the ID images that score lower. The tail is finer: that is where out-of-distribution images land.
BOUNDS = (*(round(0.05 * step, 2) for step in range(1, 20)), 0.975, 0.99, 1.0)
# Few, because each bound is one series per class. Each is among the bounds above, which have their expected share.
CLASS_BOUNDS = (*(round(0.1 * step, 1) for step in range(1, 10)), 1.0)

FUSED = "oodguard_fused_percentile", "Share of ID images with a lower fused score, of each image answered."
CLASSES = (
    "oodguard_class_percentile",
    "Share of ID images with a lower fused score, of each image answered, by predicted label.",
)
SCORES = "oodguard_score_percentile", "Share of ID images with a lower score, of each image answered."
FLAGS = "oodguard_score_flags", "Images that a score alone puts out of distribution."
SOURCES = (
    "oodguard_source_percentile",
    "Share of ID images of its source with a lower fused score, of each image answered, by source.",
)
SOURCE_FLAGS = "oodguard_source_flags", "Images flagged, by source."
SHARE = "oodguard_expected_share", "Share of ID images below a bound of the percentile histograms."
OOD_SHARE = "oodguard_expected_ood_share", "Share of ID images that the calibration flags."
LABELS = {
    CLASSES[0]: ("label",),
    SCORES[0]: ("score",),
    FLAGS[0]: ("score",),
    SOURCES[0]: ("source",),
    SOURCE_FLAGS[0]: ("source",),
    SHARE[0]: ("bound",),
}


def label_of(bound: float) -> str:
    """A bound as the value of a label: of `le` in a histogram, of `bound` beside it."""
    return f"{bound:g}" if bound < 1 else "+Inf"


class DriftCounts:
    """Counts of shares by bounds, inclusive above as Prometheus has it; the last bound is 1.

    `cells`: a count for each bound, and the sum of the shares.
    """

    def __init__(self, cells: Numbers, bounds: tuple[float, ...] = BOUNDS) -> None:
        self._cells = cells
        self._bounds = bounds

    def add(self, share: float) -> None:
        """Count one share, 0 to 1."""
        self._cells[min(bisect_left(self._bounds, share), len(self._bounds) - 1)] += 1
        self._cells[-1] += share

    @property
    def total(self) -> float:
        """The sum of the shares."""
        return self._cells[-1]

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound."""
        found: list[tuple[str, float]] = []
        reached = 0.0
        for bound, count in zip(self._bounds, self._cells, strict=False):
            reached += count
            found.append((label_of(bound), reached))
        return found


class Drift(Collector):
    """The percentiles and flags of every answered image.

    A percentile is uniform on ID images by construction: `oodguard_expected_share{bound}` is the share that belongs
    below each bound, whatever the model, so the distance to it is one line of PromQL. Buckets in percentiles are
    buckets placed at the calibration's own quantiles. Models with more than `most_classes` classes are not counted
    class by class: the number of series stays bounded.
    """

    def __init__(self, most_classes: int = 0, cells: Cells | None = None) -> None:
        self.most_classes = most_classes
        self._cells = cells or PrivateCells()
        self._fused = self._counts(FUSED[0])
        self._classes: dict[str, DriftCounts] = {}
        self._scores: dict[str, DriftCounts] = {}
        self._flags: dict[str, Numbers] = {}
        self._sources: dict[str, DriftCounts] = {}
        self._source_flags: dict[str, Numbers] = {}
        self._passing = 0.0

    def _counts(self, metric: str, bounds: tuple[float, ...] = BOUNDS, **labels: str) -> DriftCounts:
        shown = [label_of(bound) for bound in bounds]
        return DriftCounts(self._cells.take(metric, labels, len(bounds) + 1, bounds=shown), bounds)

    def _count(self, metric: str, **labels: str) -> Numbers:
        return self._cells.take(f"{metric}_total", labels, 1)

    def model(self, manifest: Manifest, targets: Targets) -> None:
        """Take over the scores of the model now served, judged by default by `targets`; the counts go on."""
        names = [entry.name for entry in manifest.scores]
        self._scores = {name: self._scores.get(name) or self._counts(SCORES[0], score=name) for name in names}
        self._flags = {name: self._flags.get(name) or self._count(FLAGS[0], score=name) for name in names}
        counted = manifest.classes if len(manifest.classes) <= self.most_classes else ()
        self._classes = {
            name: self._classes.get(name) or self._counts(CLASSES[0], CLASS_BOUNDS, label=name) for name in counted
        }
        # Without sources the counts of all images say the same.
        sources = (DEFAULT_SOURCE, *manifest.sources) if manifest.sources else ()
        self._sources = {
            name: self._sources.get(name) or self._counts(SOURCES[0], CLASS_BOUNDS, source=name) for name in sources
        }
        self._source_flags = {
            name: self._source_flags.get(name) or self._count(SOURCE_FLAGS[0], source=name) for name in sources
        }
        self._passing = manifest.calibration.curve.level(targets.accept, confidence=targets.confidence)

    def count(self, verdict: Verdict, *, source: str | None = None) -> None:
        """Count one answered image."""
        share = verdict.percentile / 100
        self._fused.add(share)
        by_class = self._classes.get(verdict.label)
        if by_class is not None:
            by_class.add(share)
        by_source = self._sources.get(source or DEFAULT_SOURCE)
        if by_source is not None:
            by_source.add(share)
            self._source_flags[source or DEFAULT_SOURCE][0] += verdict.is_ood
        for name, score in verdict.scores.items():
            counts = self._scores.get(name)
            if counts is None:  # the model may have been replaced since
                continue
            counts.add(score.percentile / 100)
            self._flags[name][0] += score.is_ood

    def collect(self) -> Iterator[Metric]:
        """The series, for a scrape."""
        fused = HistogramMetricFamily(*FUSED)
        fused.add_metric([], self._fused.buckets(), self._fused.total)
        classes = HistogramMetricFamily(*CLASSES, labels=LABELS[CLASSES[0]])
        for label, counts in self._classes.items():
            classes.add_metric([label], counts.buckets(), counts.total)
        scores = HistogramMetricFamily(*SCORES, labels=LABELS[SCORES[0]])
        flags = CounterMetricFamily(*FLAGS, labels=LABELS[FLAGS[0]])
        for name, counts in self._scores.items():
            scores.add_metric([name], counts.buckets(), counts.total)
            flags.add_metric([name], self._flags[name][0])
        sources = HistogramMetricFamily(*SOURCES, labels=LABELS[SOURCES[0]])
        source_flags = CounterMetricFamily(*SOURCE_FLAGS, labels=LABELS[SOURCE_FLAGS[0]])
        for name, counts in self._sources.items():
            sources.add_metric([name], counts.buckets(), counts.total)
            source_flags.add_metric([name], self._source_flags[name][0])
        expected = GaugeMetricFamily(*SHARE, labels=LABELS[SHARE[0]])
        for bound in BOUNDS:
            expected.add_metric([label_of(bound)], bound)
        yield from (fused, classes, scores, flags, sources, source_flags, expected)
        yield self.expected()

    def expected(self) -> Metric:
        """The share of ID images that is flagged."""
        return GaugeMetricFamily(*OOD_SHARE, value=1.0 - self._passing)

"""The metrics of all workers as those of one server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from oodguard.core.manifest import DEFAULT_SOURCE
from oodguard.server import drift, promise
from oodguard.server.cells import MappedCells, Taken
from oodguard.server.metrics import Metrics
from oodguard.server.workers.messages import ModelNews, WorkerState

# Gauges of the workers that the whole has, and how; the fleet knows all others by itself.
MERGED: Mapping[str, Callable[[Iterable[float]], float]] = {
    "oodguard_queue_images": sum,
    "oodguard_decoding_bytes": sum,
    "oodguard_decoding_seconds": max,
    promise.EVIDENCE[0]: sum,
    promise.ALLOWED[0]: max,
    drift.OOD_SHARE[0]: max,
}
# Labels whose values come from the model: series of what the served one does not have are left out.
OF_MODEL: Mapping[str, tuple[str, Callable[[ModelNews], Sequence[str]]]] = {
    "oodguard_predictions": ("label", lambda news: news.labels),
    drift.CLASSES[0]: ("label", lambda news: news.labels),
    drift.SCORES[0]: ("score", lambda news: news.scores),
    drift.FLAGS[0]: ("score", lambda news: news.scores),
    drift.SOURCES[0]: ("source", lambda news: (DEFAULT_SOURCE, *news.sources)),
    drift.SOURCE_FLAGS[0]: ("source", lambda news: (DEFAULT_SOURCE, *news.sources)),
}
Labels = tuple[tuple[str, str], ...]


class Merged(Collector):
    """Every metric of a server once, whichever worker counted.

    `own` are the fleet's metrics: they have the names, the help and what the fleet alone knows. Counters and histograms
    are the sum over the `stores`, which outlive their workers: they never fall, and nothing is asked of a worker, so
    one that hangs holds up no scrape. `states` and `models` are what the living workers have last said.
    """

    def __init__(
        self,
        own: Metrics,
        stores: Sequence[MappedCells],
        *,
        states: Callable[[], Iterable[WorkerState]],
        models: Callable[[], Iterable[ModelNews]],
    ) -> None:
        self._own = own
        self._stores = stores
        self._states = states
        self._models = models

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """The series, for a scrape."""
        counted = self._counted()
        gauges: dict[str, dict[Labels, list[float]]] = defaultdict(lambda: defaultdict(list))
        for state in self._states():
            for name, labels, value in state.gauges:
                gauges[name][tuple(labels.items())].append(value)
        models = list(self._models())
        served = {
            name: (label, set().union(*(values(model) for model in models)))
            for name, (label, values) in OF_MODEL.items()
        }
        for family in self._own.registry.collect():
            found = Metric(family.name, family.documentation, family.type)
            if family.name in MERGED:
                for key, numbers in gauges[family.name].items():
                    found.add_sample(family.name, dict(key), MERGED[family.name](numbers))
            elif family.type not in ("counter", "histogram"):
                found = family
            else:
                label, values = served.get(family.name, ("", None))
                for sample, of, value in _samples(family, counted):
                    if values is None or of[label] in values:
                        found.add_sample(sample, of, value)
            yield found

    def _counted(self) -> dict[str, dict[Labels, Series]]:
        """By name without its suffix of buckets, and by labels: what all workers have counted."""
        series: dict[str, dict[Labels, Series]] = defaultdict(dict)
        for store in self._stores:
            for taken in store.taken():
                name, labels, numbers = _read(taken)
                known = series[name].setdefault(labels, Series())
                known.add(numbers, created=taken.values[1] if not taken.bounds and len(taken.values) == 2 else None)
        return series


class Series:
    """A value, or the counts of buckets in their order; `created` is when the first worker began it."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.created: float | None = None

    def add(self, numbers: Mapping[str, float], *, created: float | None) -> None:
        """Add what one worker has counted."""
        for key, value in numbers.items():
            self.numbers[key] = self.numbers.get(key, 0.0) + value
        if created is not None:
            self.created = min(created, self.created or created)


def _read(taken: Taken) -> tuple[str, Labels, dict[str, float]]:
    """Name, labels and numbers of some cells: by bucket, or under ""."""
    labels = dict(taken.labels)
    if taken.bounds:
        buckets = dict(zip(taken.bounds, taken.values, strict=False))
        return taken.name, tuple(labels.items()), {**buckets, "sum": taken.values[-1]}
    if taken.name.endswith("_bucket"):
        bound = labels.pop("le")
        return taken.name.removesuffix("_bucket"), tuple(labels.items()), {bound: taken.values[0]}
    if taken.name.endswith("_sum"):
        return taken.name.removesuffix("_sum"), tuple(labels.items()), {"sum": taken.values[0]}
    return taken.name, tuple(labels.items()), {"": taken.values[0]}


def _samples(
    family: Metric, counted: Mapping[str, Mapping[Labels, Series]]
) -> Iterator[tuple[str, dict[str, str], float]]:
    """The samples of a counter or a histogram, as the library writes them: the buckets cumulative."""
    name = family.name
    suffix = "_total" if family.type == "counter" else ""
    for key, series in counted.get(name + suffix, {}).items():
        labels = dict(key)
        if family.type == "counter":
            yield f"{name}_total", labels, series.numbers[""]
        else:
            total = 0.0
            bounds = sorted((bound for bound in series.numbers if bound != "sum"), key=float)
            for bound in bounds:
                total += series.numbers[bound]
                yield f"{name}_bucket", {**labels, "le": bound}, total
            yield f"{name}_count", labels, total
            yield f"{name}_sum", labels, series.numbers["sum"]
        if series.created is not None:
            yield f"{name}_created", labels, series.created

"""The Prometheus metrics of a server: every name once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from oodguard.core.manifest import Manifest
from oodguard.core.problems import PROBLEMS
from oodguard.core.verdict import Verdict
from oodguard.server.drift import Drift
from oodguard.server.settings import ServeSettings
from oodguard.server.stages import STAGES

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
STATUSES = (200, *sorted({status for status, _ in PROBLEMS.values()}))
LIMITS = (
    "max_queue",
    "max_queue_bytes",
    "max_connections",
    "max_body_bytes",
    "max_files",
    "max_image_bytes",
    "max_pixels",
    "request_timeout",
)
# Routes that infer: every series of theirs starts at 0, and their answers are timed as a whole.
INFERENCE = ("/predict", "/v2/models/*")


@dataclass(frozen=True, slots=True)
class Reading:
    """Totals since the start: images answered by (label, is_ood), all refusals, and timed requests by bucket."""

    answered: Mapping[tuple[str, bool], float]
    refused: float
    latency: tuple[float, ...]


class Metrics:
    """One server's metrics, in a registry of their own.

    Labels come from the manifest and the code, never from input.
    """

    # Finer than the stages': quantiles are estimated from it.
    REQUEST_SECONDS = (
        *(0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.011, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08),
        *(0.11, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0),
    )

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "oodguard_requests", "HTTP requests, by route and status.", ["route", "status"], registry=registry
        )
        self._request = Histogram(
            "oodguard_request_seconds",
            "Seconds that answered inference requests took, by route.",
            ["route"],
            buckets=self.REQUEST_SECONDS,
            registry=registry,
        )
        self._stage = Histogram(
            "oodguard_stage_seconds", "Seconds spent in a stage.", ["stage"], buckets=SECONDS, registry=registry
        )
        self.batch_images = Histogram(
            "oodguard_batch_images", "Images in one inference.", buckets=BATCHES, registry=registry
        )
        self._predictions = Counter(
            "oodguard_predictions", "Images answered, by label and verdict.", ["label", "is_ood"], registry=registry
        )
        self._rejected = Counter(
            "oodguard_rejected", "Images or requests refused, by reason.", ["code"], registry=registry
        )
        self.expired = Counter(
            "oodguard_expired_images", "Images dropped because their deadline had passed.", registry=registry
        )
        self.engine_errors = Counter("oodguard_engine_errors", "Inferences that failed.", registry=registry)
        self._reloads = Counter("oodguard_reloads", "Bundles loaded while serving.", ["result"], registry=registry)
        self._samples = Counter(
            "oodguard_samples",
            "Flagged images for review: kept, dropped for want of room, failed to be written.",
            ["result"],
            registry=registry,
        )
        self.ready = Gauge("oodguard_ready", "1 when the server is ready.", registry=registry)
        self.queue_images = Gauge("oodguard_queue_images", "Images admitted and not yet answered.", registry=registry)
        self.queue_limit = Gauge("oodguard_queue_limit_images", "Images that may be inside.", registry=registry)
        self._limits = Gauge("oodguard_limit", "Limits of the settings, by name.", ["setting"], registry=registry)
        self._model = Info("oodguard_model", "The model being served.", registry=registry)
        self._drift = Drift()
        registry.register(self._drift)
        # Every series exists from the start, so that a rate over it is never missing; looking a series up by its
        # labels on every request would cost more than counting.
        self.stage = {stage: self._stage.labels(stage) for stage in STAGES}
        self.timed = {route: self._request.labels(route) for route in INFERENCE}
        self.rejected = {code: self._rejected.labels(code) for code in PROBLEMS}
        self.reloads = {result: self._reloads.labels(result) for result in ("swapped", "refused")}
        self.samples = {result: self._samples.labels(result) for result in ("kept", "dropped", "failed")}
        self.predictions: dict[tuple[str, bool], Counter] = {}
        self._by_route: dict[tuple[str, int], Counter] = {}

    def settings(self, settings: ServeSettings) -> None:
        """Show the limits, and keep to the one on series; to be called before the model is named."""
        self._drift.most_classes = settings.class_drift
        self.queue_limit.set(settings.max_queue)
        for name in LIMITS:
            self._limits.labels(name).set(getattr(settings, name))

    def routes(self, names: Iterable[str]) -> None:
        """Start the series of inference routes at 0."""
        for name in names:
            for status in STATUSES:
                self._by_route[name, status] = self.requests.labels(name, str(status))

    def request(self, route: str, status: int) -> None:
        """Count one request; `route` is one of the program's, never what a caller typed."""
        (self._by_route.get((route, status)) or self.requests.labels(route, str(status))).inc()

    def answer(self, verdict: Verdict) -> None:
        """Count one answered image."""
        counter = self.predictions.get((verdict.label, verdict.is_ood))
        if counter is not None:  # the model may have been replaced since
            counter.inc()
        self._drift.count(verdict)

    def model(self, manifest: Manifest, accept: float) -> None:
        """Name the model being served, judged by default at `accept`; series of what it does not have are dropped."""
        for label, verdict in self.predictions:
            if label not in manifest.classes:
                self._predictions.remove(label, str(verdict).lower())
        self.predictions = {
            (label, verdict): self._predictions.labels(label, str(verdict).lower())
            for label in manifest.classes
            for verdict in (True, False)
        }
        self._model.info({"name": manifest.name, "version": manifest.version})
        self._drift.model(manifest, accept)

    def read(self) -> Reading:
        """What traffic is reported from."""
        # Straight from the series: the library's public way, collecting, takes 20 ms for a thousand classes.
        latency = [[bucket.get() for bucket in series._buckets] for series in self.timed.values()]
        return Reading(
            answered={series: counter._value.get() for series, counter in self.predictions.items()},
            refused=sum(counter._value.get() for counter in self.rejected.values()),
            latency=tuple(map(sum, zip(*latency, strict=True))),
        )

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self.registry)

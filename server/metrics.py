"""The Prometheus metrics of a server: every name once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from oodguard.export.contract import Manifest
from oodguard.server.errors import PROBLEMS

STAGES = ("read", "decode", "queue", "inference", "judge")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """One server's metrics, in a registry of their own.

    Labels come from the manifest and the code, never from input.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "oodguard_requests", "HTTP requests, by route and status.", ["route", "status"], registry=registry
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
        self.ready = Gauge("oodguard_ready", "1 when the server is ready.", registry=registry)
        self.queue_images = Gauge("oodguard_queue_images", "Images admitted and not yet answered.", registry=registry)
        self.queue_limit = Gauge("oodguard_queue_limit_images", "Images that may be inside.", registry=registry)
        self._model = Info("oodguard_model", "The model being served.", registry=registry)
        # Every series exists from the start, so that a rate over it is never missing; looking a series up by its
        # labels on every request would cost more than counting.
        self.stage = {stage: self._stage.labels(stage) for stage in STAGES}
        self.rejected = {code: self._rejected.labels(code) for code in PROBLEMS}
        self.reloads = {result: self._reloads.labels(result) for result in ("swapped", "refused")}
        self.predictions: dict[tuple[str, bool], Counter] = {}

    def model(self, manifest: Manifest) -> None:
        """Name the model being served; series of classes it does not have are dropped."""
        for label, verdict in self.predictions:
            if label not in manifest.classes:
                self._predictions.remove(label, str(verdict).lower())
        self.predictions = {
            (label, verdict): self._predictions.labels(label, str(verdict).lower())
            for label in manifest.classes
            for verdict in (True, False)
        }
        self._model.info({"name": manifest.name, "version": manifest.version})

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self.registry)

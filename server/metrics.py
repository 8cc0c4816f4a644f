"""The Prometheus metrics of a server: every name once."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from oodguard.export.contract import Manifest
from oodguard.server.errors import PROBLEMS

STAGES = ("decode", "inference", "judge")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One server's metrics, in a registry of their own.

    Labels come from the manifest and the code, never from input.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "oodguard_requests", "HTTP requests, by route and status.", ["route", "status"], registry=self.registry
        )
        self.stage_seconds = Histogram(
            "oodguard_stage_seconds",
            "Seconds a request spent in a stage.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_images = Histogram(
            "oodguard_batch_images",
            "Images in one inference.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.predictions = Counter(
            "oodguard_predictions",
            "Images answered, by label and verdict.",
            ["label", "is_ood"],
            registry=self.registry,
        )
        self.rejected = Counter(
            "oodguard_rejected_images", "Images or requests refused, by reason.", ["code"], registry=self.registry
        )
        self.engine_errors = Counter("oodguard_engine_errors", "Inferences that failed.", registry=self.registry)
        self.ready = Gauge("oodguard_ready", "1 when the server is ready.", registry=self.registry)
        info = Info("oodguard_model", "The model being served.", registry=self.registry)
        info.info({"name": manifest.name, "version": manifest.version})
        # Every series exists from the start, so that a rate over it is never missing.
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for label in manifest.classes:
            for verdict in ("true", "false"):
                self.predictions.labels(label, verdict)
        for code in PROBLEMS:
            self.rejected.labels(code)

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self.registry)

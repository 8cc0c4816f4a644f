"""The Prometheus metrics of a server: every name once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import Metric

from oodguard.core.answers import ModelRef
from oodguard.core.codes import Code
from oodguard.core.manifest import Manifest
from oodguard.core.quality import Unfitness
from oodguard.core.targets import Targets
from oodguard.core.verdict import Decision, Verdict
from oodguard.server import drift, promise
from oodguard.server.cells import FLAGGED, IMAGES, INSIDE, LATENCY, REFUSED, Cells, PrivateCells
from oodguard.server.settings import ServeSettings
from oodguard.server.shadow_pipe import ShadowVerdict
from oodguard.server.stages import STAGES

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Finer than the stages': quantiles are estimated from it.
REQUEST_SECONDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.011, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08),
    *(0.11, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0),
)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
STATUSES = (200, *sorted({code.status for code in Code}))
LIMITS = (
    "max_queue",
    "max_queue_bytes",
    "max_connections",
    "max_body_bytes",
    "max_files",
    "max_image_bytes",
    "max_pixels",
    "max_decode_work",
    "max_decode_bytes",
    "max_json_bytes",
    "request_timeout",
)

Family = TypeVar("Family", Counter, Gauge, Histogram, Info)


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the start: images answered, those flagged among them, refusals, and timed requests by bucket."""

    images: int
    flagged: int
    refused: int
    latency: tuple[int, ...]


class Metrics:
    """One server's metrics, in a registry of their own.

    Label values come from the manifest and the code, never from input. `labels` has the label names of each metric.
    `cells` are where the counts of images are kept that the library does not keep.
    """

    def __init__(self, cells: Cells | None = None) -> None:
        self._cells = cells or PrivateCells()
        self.registry = CollectorRegistry()
        self.labels: dict[str, tuple[str, ...]] = {**drift.LABELS, **promise.LABELS}
        self.requests = self._add(Counter, "oodguard_requests", "Requests, by route and status.", "route", "status")
        self._by_key = self._add(
            Counter, "oodguard_key_requests", "Inference requests, by the name of the caller's key and status.",
            "key", "status",
        )  # fmt: skip
        self._counted_keys: set[tuple[str, str]] = set()
        self._request_seconds = self._add(
            Histogram,
            "oodguard_request_seconds",
            "Seconds from the end of an inference request's body to its answer, by route.",
            "route",
            buckets=REQUEST_SECONDS,
        )
        stages = self._add(Histogram, "oodguard_stage_seconds", "Seconds spent in a stage.", "stage", buckets=SECONDS)
        self.batch_images = self._add(Histogram, "oodguard_batch_images", "Images in one inference.", buckets=BATCHES)
        self._predictions = self._add(
            Counter, "oodguard_predictions", "Images answered, by label and verdict.", "label", "is_ood"
        )
        decisions = self._add(
            Counter,
            "oodguard_decisions",
            "Images answered, by what to do with them: answer, unsure, stranger.",
            "decision",
        )
        quality = self._add(
            Counter,
            "oodguard_quality",
            "Images answered, by why their picture is unfit (none: it is fit) and verdict.",
            "reason",
            "is_ood",
        )
        rejected = self._add(Counter, "oodguard_rejected", "Images or requests refused, by reason.", "code")
        self.expired = self._add(
            Counter, "oodguard_expired_images", "Images dropped because their deadline had passed."
        )
        self.engine_errors = self._add(Counter, "oodguard_engine_errors", "Inferences that failed.")
        reloads = self._add(Counter, "oodguard_reloads", "Bundles loaded while serving.", "result")
        samples = self._add(
            Counter,
            "oodguard_samples",
            "Flagged images for review: kept, the same as one kept, dropped for want of room, failed to be written.",
            "result",
        )
        webhook = self._add(
            Counter,
            "oodguard_webhook_samples",
            "Flagged images for the webhook: delivered, dropped for want of room, failed in every attempt.",
            "result",
        )
        self.webhook_retries = self._add(
            Counter, "oodguard_webhook_retries", "Attempts to deliver a flagged image after the first."
        )
        self.shadow_share = self._add(
            Gauge, "oodguard_shadow_share", "Share of the images drawn for the shadow bundle; 0 without one."
        )
        self.shadow_ready = self._add(Gauge, "oodguard_shadow_ready", "1 when the shadow bundle judges.")
        self._shadow_model = self._add(
            Gauge, "oodguard_shadow_model", "1 for the model of the shadow bundle that judges.", "name", "version"
        )
        shadow_images = self._add(
            Counter,
            "oodguard_shadow_images",
            "Images drawn for the shadow bundle: judged, dropped (no room, or no shadow that judges), failed.",
            "result",
        )
        shadow_verdicts = self._add(
            Counter,
            "oodguard_shadow_verdicts",
            "Images judged by both bundles, by verdict of each and whether their labels are the same.",
            "primary_is_ood",
            "shadow_is_ood",
            "same_label",
        )
        shadow_decisions = self._add(
            Counter,
            "oodguard_shadow_decisions",
            "Images judged by both bundles, by decision of each.",
            "primary_decision",
            "shadow_decision",
        )
        self.shadow_inference_seconds = self._add(
            Histogram,
            "oodguard_shadow_inference_seconds",
            "Seconds of one inference of the shadow bundle, of up to four images.",
            buckets=SECONDS,
        )
        shadow_reloads = self._add(
            Counter, "oodguard_shadow_reloads", "Shadow bundles loaded in place of another.", "result"
        )
        self.ready = self._add(Gauge, "oodguard_ready", "1 when the server is ready.")
        self.workers = self._add(Gauge, "oodguard_workers", "Processes that serve.")
        self.worker_restarts = self._add(
            Counter, "oodguard_worker_restarts", "Processes that ended unasked, and were started again."
        )
        self.queue_images = self._add(Gauge, "oodguard_queue_images", "Images admitted and not yet answered.")
        self.decoding_bytes = self._add(
            Gauge, "oodguard_decoding_bytes", "Memory that images take which are being decoded, in bytes."
        )
        self.decoding_seconds = self._add(
            Gauge, "oodguard_decoding_seconds", "Seconds that the longest decoding under way has taken."
        )
        self._queue_limit = self._add(Gauge, "oodguard_queue_limit_images", "Images that may be inside.")
        self._limits = self._add(Gauge, "oodguard_limit", "Limits of the settings, by name.", "setting")
        self._model = self._add(Info, "oodguard_model", "The model being served.")
        self._drift = drift.Drift(cells=self._cells)
        self._promise = promise.PromiseWatch(self._cells)
        self.registry.register(self._drift)
        self.registry.register(self._promise)
        # Every series exists from the start, so that a rate over it is never missing; looking a series up by its
        # labels on every request would cost more than counting.
        self._stages = [stages.labels(stage) for stage in STAGES]
        self._decisions = {decision: decisions.labels(decision) for decision in Decision}
        self._quality = {
            (reason, is_ood): quality.labels(reason or "none", str(is_ood).lower())
            for reason, is_ood in product((None, *Unfitness), (True, False))
        }
        self._rejected = {code: rejected.labels(code) for code in Code}
        self.reloads = {result: reloads.labels(result) for result in ("swapped", "refused")}
        self.samples = {result: samples.labels(result) for result in ("kept", "repeated", "dropped", "failed")}
        self.webhook = {result: webhook.labels(result) for result in ("delivered", "dropped", "failed")}
        self.shadow_images = {result: shadow_images.labels(result) for result in ("judged", "dropped", "failed")}
        self.shadow_reloads = {result: shadow_reloads.labels(result) for result in ("swapped", "refused")}
        self._compared = {
            found: shadow_verdicts.labels(*(str(one).lower() for one in found))
            for found in product((False, True), repeat=3)
        }
        self._decided = {found: shadow_decisions.labels(*found) for found in product(Decision, repeat=2)}
        self._answered: dict[tuple[str, bool], Counter] = {}
        self._timed: dict[str, Histogram] = {}
        self._by_route: dict[tuple[str, int], Counter] = {}
        # Beside the series, which the library only shows as a whole: that takes 20 ms for a thousand classes.
        self._row = self._cells.row
        self.processes = 1 + len(self._cells.others)
        self.workers.set(self.processes)

    def _add(self, kind: type[Family], name: str, text: str, *labels: str, **options: Any) -> Family:
        self.labels[name] = labels
        return kind(name, text, labels, registry=self.registry, **options)

    def settings(self, settings: ServeSettings) -> None:
        """Show the limits, and keep to the one on series; to be called before `model`."""
        self._drift.most_classes = settings.class_drift
        self._queue_limit.set(settings.max_queue)
        for name in LIMITS:
            self._limits.labels(name).set(getattr(settings, name))

    def expect(self, routes: Iterable[str]) -> None:
        """Start every series of these inference routes at 0."""
        for route in routes:
            self._timed[route] = self._request_seconds.labels(route)
            for status in STATUSES:
                self._by_route[route, status] = self.requests.labels(route, str(status))

    def request(self, route: str, status: int) -> None:
        """Count one request; `route` is one of the program's, never what a caller typed."""
        (self._by_route.get((route, status)) or self.requests.labels(route, str(status))).inc()

    def by_key(self, key: str, status: int) -> None:
        """Count one inference request of a caller with a key; `key` is a name of the key file."""
        self._by_key.labels(key, str(status)).inc()
        self._counted_keys.add((key, str(status)))

    def keep_keys(self, names: Set[str]) -> None:
        """Drop the series of keys that are not valid any more."""
        for key, status in [one for one in self._counted_keys if one[0] not in names]:
            self._by_key.remove(key, status)
            self._counted_keys.discard((key, status))

    def took(self, route: str, seconds: float) -> None:
        """Observe what an answered inference request took."""
        self._timed[route].observe(seconds)
        self._row[LATENCY + bisect_left(REQUEST_SECONDS, seconds)] += 1

    def stages(self, seconds: Iterable[float]) -> None:
        """Observe the stages of a judged request, in the order of `STAGES`."""
        for histogram, value in zip(self._stages, seconds, strict=True):
            histogram.observe(value)

    def refuse(self, code: Code) -> None:
        """Count one image or request that is refused."""
        self._rejected[code].inc()
        self._row[REFUSED] += 1

    def answer(self, verdict: Verdict, manifest: Manifest, *, source: str | None = None) -> None:
        """Count one image that the model of `manifest` answered; `source` is one of its own, never a caller's text."""
        counter = self._answered.get((verdict.label, verdict.is_ood))
        if counter is not None:  # the model may have been replaced since
            counter.inc()
        self._decisions[verdict.decision].inc()
        if verdict.quality is not None:
            self._quality[verdict.quality.reason, verdict.is_ood].inc()
        self._row[IMAGES] += 1
        self._row[FLAGGED] += verdict.is_ood
        self._drift.count(verdict, source=source)
        self._promise.count(verdict, manifest)

    def compare(self, primary: Verdict, shadow: ShadowVerdict) -> None:
        """Count one image judged by both bundles: the server's verdict beside what the shadow says."""
        self.shadow_images["judged"].inc()
        self._compared[primary.is_ood, shadow.is_ood, primary.label == shadow.label].inc()
        self._decided[primary.decision, shadow.decision].inc()

    def shadow(self, model: ModelRef | None) -> None:
        """Name the model of the shadow bundle; None where it judges nothing."""
        self._shadow_model.clear()
        self.shadow_ready.set(model is not None)
        if model is not None:
            self._shadow_model.labels(model.name, model.version).set(1)

    def model(self, manifest: Manifest, targets: Targets) -> None:
        """Name the model being served, judged by default by `targets`; series of what it does not have are dropped."""
        for label, verdict in self._answered:
            if label not in manifest.classes:
                self._predictions.remove(label, str(verdict).lower())
        self._answered = {
            (label, verdict): self._predictions.labels(label, str(verdict).lower())
            for label in manifest.classes
            for verdict in (True, False)
        }
        self.name(manifest.name, manifest.version)
        self._drift.model(manifest, targets)
        self._promise.model(manifest)

    def name(self, name: str, version: str) -> None:
        """Name the model being served."""
        self._model.info({"name": name, "version": version})

    @property
    def inside_elsewhere(self) -> int:
        """Images inside the other workers, as they have last said."""
        return round(sum(row[INSIDE] for row in self._cells.others))

    def totals(self) -> Totals:
        """What traffic is reported from: of all workers."""
        rows = [self._row, *self._cells.others]
        images, flagged, refused = (round(sum(row[at] for row in rows)) for at in (IMAGES, FLAGGED, REFUSED))
        places = range(LATENCY, LATENCY + len(REQUEST_SECONDS) + 1)
        return Totals(images, flagged, refused, tuple(round(sum(row[at] for row in rows)) for at in places))

    def gauges(self) -> Iterator[Metric]:
        """What a worker tells of the moment, for the whole to add up."""
        for one in (self.queue_images, self.decoding_bytes, self.decoding_seconds, self._promise):
            yield from one.collect()
        yield self._drift.expected()

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self.registry)

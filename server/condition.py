"""What a served model's batcher reports, counted, and kept as the reasons why the model is not ready."""

from __future__ import annotations

from dataclasses import dataclass

from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics


@dataclass
class Condition:
    """The `BatcherEvents` of one model.

    `defect` says why the model can answer nothing, `slow` why it may not answer in time; None where that is not so.
    """

    metrics: Metrics
    defect: str | None = "the golden images have not been checked yet"
    slow: str | None = None

    def batch(self, images: int) -> None:
        """Count a batch."""
        self.metrics.batch_images.observe(images)

    def expired(self) -> None:
        """Count an image whose deadline passed in the queue."""
        self.metrics.expired.inc()

    def engine_error(self) -> None:
        """Count a batch that failed."""
        self.metrics.engine_errors.inc()

    def unavailable(self, reason: str) -> None:
        """Keep the reason why the engine is gone."""
        self.defect = reason
        log.error("not ready: %s", reason)

    def stalled(self, seconds: float) -> None:
        """Keep the reason: an inference is too slow."""
        self.slow = f"an inference has been running for more than {seconds:g} s"
        log.error("not ready: %s", self.slow)

    def recovered(self) -> None:
        """Drop that reason."""
        self.slow = None
        log.warning("ready again: the slow inference has ended")

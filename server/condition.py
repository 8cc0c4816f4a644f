"""What a served model's batcher reports, counted, and kept as the reasons why the model is not ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics

# Batches that fail in a row before the golden images are asked again.
DOUBT_AFTER = 3


@dataclass
class Condition:
    """The `BatcherEvents` of one model.

    `defect` says why the model can answer nothing, `slow` why it may not answer in time; None where that is not so.
    `doubt` is called after every few batches that failed in a row.
    """

    metrics: Metrics
    doubt: Callable[[], None]
    defect: str | None = "the golden images have not been checked yet"
    slow: str | None = None
    failed: int = 0

    def batch(self, images: int) -> None:
        """Count a batch."""
        self.metrics.batch_images.observe(images)

    def expired(self) -> None:
        """Count an image whose deadline passed in the queue."""
        self.metrics.expired.inc()

    def engine_error(self, error: Exception) -> None:
        """Count a batch that failed; the log gets the first of several in a row."""
        self.metrics.engine_errors.inc()
        self.failed += 1
        if self.failed == 1:
            log.error("inference failed; of others that follow, the log is silent", exc_info=error)
        if self.failed % DOUBT_AFTER == 0:
            self.doubt()

    def measured(self) -> None:
        """A batch was measured."""
        if self.failed > 1:
            log.warning("inference works again after %d failures", self.failed)
        self.failed = 0

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

"""Whether this process should get traffic, can answer, or should be restarted."""

from __future__ import annotations

from dataclasses import dataclass

from oodguard.server.decoders import Decoders
from oodguard.server.errors import EngineUnavailable
from oodguard.server.serving import Serving


@dataclass
class Health:
    """What the probes are told. Each property is a sentence that says why not, or None.

    A slow inference makes the server not ready, but not broken: it may end. After `dead_after` seconds it is dead. So
    do images that keep every decoder, after `stall_after` seconds.
    """

    serving: Serving
    decoders: Decoders
    stall_after: float
    dead_after: float
    draining: bool = False

    @property
    def not_ready(self) -> str | None:
        """Why no new traffic should be sent here."""
        model = self.serving.model
        draining = "shutting down" if self.draining else None
        return model.condition.defect or model.condition.slow or self._undecoded or draining or model.unreachable

    @property
    def dead(self) -> str | None:
        """Why the process should be restarted."""
        seconds = self.serving.model.batcher.oldest_run
        if seconds > self.dead_after:
            return f"an inference has been running for {seconds:.0f} s"
        return self._undecoded if self.decoders.stuck > self.dead_after else None

    @property
    def _undecoded(self) -> str | None:
        seconds = self.decoders.stuck
        return f"every decoder has been busy with one image for {seconds:.1f} s" if seconds > self.stall_after else None

    @property
    def broken(self) -> str | None:
        """Why no request can be answered."""
        model = self.serving.model
        return model.condition.defect or self.dead or model.unreachable

    def require_able(self) -> None:
        """Raise `EngineUnavailable` when no request can be answered."""
        broken = self.broken
        if broken:
            raise EngineUnavailable(broken)

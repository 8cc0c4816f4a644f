"""Whether this process should get traffic, can answer, or should be restarted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from oodguard.server.decoders import Decoders
from oodguard.server.errors import EngineUnavailable
from oodguard.server.logs import server as log
from oodguard.server.serving import Serving


@dataclass(kw_only=True)
class Probes:
    """What the probes are told. Each property is a sentence that says why not, or None.

    `unwatched`: why nothing watches the bundle and the keys any more.
    """

    draining: bool = False
    unwatched: str | None = None

    @property
    def not_ready(self) -> str | None:
        """Why no new traffic should be sent here."""
        return "shutting down" if self.draining else self.unwatched

    @property
    def dead(self) -> str | None:
        """Why the process should be restarted."""
        return None

    def ended(self, task: asyncio.Task[None]) -> None:
        """Turn readiness red where what runs beside the requests has ended by an error: nobody would notice else."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.unwatched = f"the watch over files has ended ({type(error).__name__})"
            log.critical("not ready: %s", self.unwatched, exc_info=error)


@dataclass
class Health(Probes):
    """The probes of one process that judges.

    A slow inference makes the server not ready, but not broken: it may end. After `dead_after` seconds it is dead. So
    do images that keep every decoder, after `stall_after` seconds.

    `elsewhere`: why the other workers cannot take traffic, which makes this one not ready, but not broken.
    """

    serving: Serving
    decoders: Decoders
    stall_after: float
    dead_after: float
    elsewhere: str | None = None

    @property
    def not_ready(self) -> str | None:
        """Why no new traffic should be sent here."""
        return self.own_problem or self.elsewhere

    @property
    def own_problem(self) -> str | None:
        """Why this process should get no new traffic, whatever the other workers do."""
        model = self.serving.model
        draining = "shutting down" if self.draining else None
        slow = model.condition.slow or self._undecoded
        return model.condition.defect or slow or draining or model.unreachable or self.unwatched

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

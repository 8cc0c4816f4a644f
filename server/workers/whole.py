"""The workers as one server: what its probes are told, what it serves, and its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from oodguard.core.answers import ModelRef
from oodguard.server.health import Probes
from oodguard.server.keys import KeyRing
from oodguard.server.workers.crew import Crew
from oodguard.server.workers.messages import Order


@dataclass
class FleetProbes(Probes):
    """What the probes are told of the whole.

    It is ready while every worker that lives is, and at least one lives: one that is being replaced is missed by
    nobody, for it gets no connections. It is dead when none has lived for `dead_after` seconds.
    """

    crew: Crew
    dead_after: float
    begun: bool = False
    alone_since: float | None = None
    clock: Callable[[], float] = field(default=lambda: asyncio.get_running_loop().time())

    @property
    def not_ready(self) -> str | None:
        """Why no new traffic should be sent here."""
        if problem := super().not_ready:
            return problem
        serving = [one for one in self.crew.workers if one.served or not self.begun]
        if not serving:
            return "no worker serves at the moment"
        return next((one.problem for one in serving if one.problem), None)

    @property
    def dead(self) -> str | None:
        """Why the process should be restarted."""
        if not self.begun or any(one.served for one in self.crew.workers):
            self.alone_since = None
            return None
        self.alone_since = self.alone_since or self.clock()
        seconds = self.clock() - self.alone_since
        return f"no worker has served for {seconds:.0f} s" if seconds > self.dead_after else None


class SharedRelease:
    """The model that all workers serve, for the routes of the private port and for the watch over files."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    @property
    def ref(self) -> ModelRef:
        """Its name and version."""
        news = self._crew.serves
        return ModelRef(name=news.name, version=news.version) if news else ModelRef(name="", version="")

    @property
    def model(self) -> SharedRelease:
        """Itself."""
        return self

    @property
    def fingerprint(self) -> str | None:
        """The hash of the manifest that every worker has."""
        return self._crew.serves.fingerprint if self._crew.serves else None

    async def reload(self) -> SharedRelease:
        """Have all workers load the bundle folder. Raises `ReloadRefused`."""
        await self._crew.reload()
        return self


class FleetKeys:
    """The keys of the private port, and of every worker."""

    def __init__(self, own: KeyRing, crew: Crew) -> None:
        self._own = own
        self._crew = crew

    def reload(self) -> None:
        """Have the key file read again by all. Raises `ReloadRefused` as `KeyRing.reload` does."""
        self._crew.order(Order(kind="keys"))
        self._own.reload()

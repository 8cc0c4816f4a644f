"""What a machine answers at most, and whether a load test reached that: one sentence from what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from oodguard.load_tests.tally import Tally
from oodguard.pages.text import percent

# Saturated is what refuses more requests than this,
MOST_SHED = 0.01
# has no more of its processors left than this,
BUSY = 0.95
# or answers hardly more when clearly more users call.
MORE_USERS, MORE_IMAGES = 1.5, 1.1
# What is shorter says little.
LEAST_SECONDS = 1.0


@dataclass(frozen=True)
class Part:
    """A part of a load test in which the number of users did not change.

    busy: the share of this machine's processors that worked, for whatever program; None where the server is elsewhere.
    """

    users: int
    seconds: float
    tally: Tally
    busy: float | None = None

    @property
    def images_per_second(self) -> float:
        """Answered images a second."""
        return self.tally.images / self.seconds


@dataclass
class Parts:
    """The parts of a running test: `note` what there is whenever you look, and `end` it."""

    found: list[Part] = field(default_factory=list)
    _began: tuple[int, float, Tally, tuple[float, float] | None] | None = None

    def note(self, users: int, total: Tally, *, now: float, processors: tuple[float, float] | None = None) -> None:
        """A look at a moment `now`: users, all counts so far, and the processors' seconds of work and of all."""
        if self._began is not None and self._began[0] == users:
            return
        self.end(total, now=now, processors=processors)
        self._began = (users, now, total, processors)

    def end(self, total: Tally, *, now: float, processors: tuple[float, float] | None = None) -> Self:
        """The last part ends now."""
        if self._began is not None:
            users, began, before, worked = self._began
            busy = None
            if worked is not None and processors is not None and processors[1] > worked[1]:
                busy = (processors[0] - worked[0]) / (processors[1] - worked[1])
            if users and now - began >= LEAST_SECONDS:
                self.found.append(Part(users, now - began, total.since(before), busy))
            self._began = None
        return self


def why_saturated(parts: Sequence[Part]) -> str | None:
    """What shows that the server had no more to give in the part with the most users; None where nothing does."""
    most = busiest(parts)
    shed = most.tally.share(most.tally.shed)
    if shed > MOST_SHED:
        return f"{percent(shed)} of requests were shed"
    fewer = [part for part in parts if part.users * MORE_USERS <= most.users]
    if fewer:
        # Of those, the one that comes closest.
        near = max(fewer, key=lambda part: part.users)
        if most.images_per_second < MORE_IMAGES * near.images_per_second:
            return (
                f"{near.users} users got {near.images_per_second:.1f} images/s and {most.users} users "
                f"{most.images_per_second:.1f}"
            )
    if most.busy is not None and most.busy >= BUSY:
        return f"its processors were {percent(most.busy, 0)} busy"
    return None


def busiest(parts: Sequence[Part]) -> Part:
    """The part with the most users; of several, the longest."""
    return max(parts, key=lambda part: (part.users, part.seconds))


def sentence(parts: Sequence[Part], *, machine: str = "this machine") -> str:
    """`this machine answers 41.2 images/s at p99 310 ms; it was saturated: 3.1 % of requests were shed.`"""
    if not parts or not busiest(parts).tally.answered:
        return f"{machine} answered nothing, so it is not known what it can answer."
    most = busiest(parts)
    why, p99 = why_saturated(parts), most.tally.latency(99)
    answers = (
        f"{machine} answers {most.images_per_second:.1f} images/s at p99 "
        f"{'-' if math.isnan(p99) else f'{p99:.0f}'} ms; it was "
    )
    if why is not None:
        return f"{answers}saturated: {why}."
    busy = "" if most.busy is None else f", and its processors were {percent(most.busy, 0)} busy"
    return (
        f"{answers}not saturated by {most.users} users: {percent(most.tally.share(most.tally.shed))} of requests were "
        f"shed{busy}; more --people show what it can answer."
    )

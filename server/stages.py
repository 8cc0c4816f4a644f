"""The stages of a request: how long each took, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oodguard.core.errors import ImageError
from oodguard.server.batcher import Answer

STAGES = ("read", "decode", "queue", "inference", "judge")
# An image's answer or its own error, and the seconds its decoding took.
Outcome = tuple[Answer | ImageError, float]

Seconds = tuple[float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Stages:
    """One request's way through the stages; times are of `time.monotonic`.

    Its images are decoded and answered side by side from `started` on: of a stage that images have each for themselves,
    `seconds` has the longest, and `periods` the time from the first image's entry to the last one's end.
    """

    outcomes: Sequence[Outcome]
    read: float
    started: float
    judging: float
    ended: float

    @property
    def seconds(self) -> Seconds:
        """Seconds in each stage, in the order of `STAGES`."""
        decode = queued = ran = 0.0
        for outcome, seconds in self.outcomes:
            decode = max(decode, seconds)
            if isinstance(outcome, Answer):
                queued, ran = max(queued, outcome.queued), max(ran, outcome.ran)
        return self.read, decode, queued, ran, self.ended - self.judging

    def periods(self) -> Iterator[tuple[str, float, float]]:
        """Name, begin and end of every stage that was reached."""
        began = self.started
        yield "read", began - self.read, began
        yield "decode", began, began + max((seconds for _, seconds in self.outcomes), default=0.0)
        answers = [(o, began + seconds) for o, seconds in self.outcomes if isinstance(o, Answer)]
        if answers:
            entered = [decoded + answer.queued for answer, decoded in answers]
            left = [decoded + answer.queued + answer.ran for answer, decoded in answers]
            yield "queue", min(decoded for _, decoded in answers), max(entered)
            yield "inference", min(entered), max(left)
        yield "judge", self.judging, self.ended

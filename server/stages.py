"""The stages of a request: how long each took, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oodguard.core.errors import ImageError
from oodguard.server.batcher import MeasuredImage

STAGES = ("read", "decode", "queue", "inference", "judge")
# What became of an image, its measurements or its own error, and the seconds that its decoding took.
Passed = tuple[MeasuredImage | ImageError, float]
Seconds = tuple[float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Stages:
    """One request's way through the stages; times are of `time.monotonic`.

    Images are decoded and measured side by side from `started` on. Of a stage that each image has for itself, `seconds`
    has the longest, and `periods` the time from the first image's entry to the last one's end.
    """

    images: Sequence[Passed]
    read: float
    started: float
    judging: float
    ended: float

    @property
    def seconds(self) -> Seconds:
        """Seconds in each stage, in the order of `STAGES`."""
        decode = queued = ran = 0.0
        for image, seconds in self.images:
            decode = max(decode, seconds)
            if isinstance(image, MeasuredImage):
                queued, ran = max(queued, image.queued), max(ran, image.ran)
        return self.read, decode, queued, ran, self.ended - self.judging

    def periods(self) -> Iterator[tuple[str, float, float]]:
        """Name, begin and end of every stage that was reached."""
        began = self.started
        yield "read", began - self.read, began
        yield "decode", began, began + max((seconds for _, seconds in self.images), default=0.0)
        measured = [(i, began + seconds) for i, seconds in self.images if isinstance(i, MeasuredImage)]
        if measured:
            entered = [decoded + image.queued for image, decoded in measured]
            left = [decoded + image.queued + image.ran for image, decoded in measured]
            yield "queue", min(decoded for _, decoded in measured), max(entered)
            yield "inference", min(entered), max(left)
        yield "judge", self.judging, self.ended

"""The one way from parsed images to verdicts, for every route and free of HTTP: decode, measure, judge, count, record.

One bad image never costs its batch-mates anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from oodguard.core.answers import ModelRef
from oodguard.core.errors import ImageError
from oodguard.core.preprocessing import Pixels
from oodguard.core.quality import Traits, traits_of
from oodguard.core.targets import Targets
from oodguard.core.verdict import Outcome, Verdict
from oodguard.server.admission import Admission
from oodguard.server.batcher import MeasuredImage
from oodguard.server.decoders import Decoders
from oodguard.server.errors import DeadlineMissed
from oodguard.server.metrics import Metrics
from oodguard.server.model import ServedModel
from oodguard.server.sampling import Sampler
from oodguard.server.shadow import Shadow
from oodguard.server.stages import Passed, Seconds, Stages
from oodguard.server.tracing import CURRENT
from oodguard.server.turns import Turns

# One image of a request: encoded, or pixels `[height, width, 3]` uint8, or why it cannot be used.
ParsedImage = bytes | Pixels | ImageError
# What became of an image, and the traits of its picture where it has one.
Seen = tuple[Passed, Traits | None]
# A request that names no target.
NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the images of one request came to, in order: their `outcomes`, and what those were made from.

    `stages` are the seconds spent in each stage (see `Stages`), `total` all of them since the request came in.
    """

    model: ModelRef
    targets: Targets
    outcomes: tuple[Outcome, ...]
    images: Sequence[Passed]
    stages: Seconds
    total: float
    source: str | None = None


@dataclass(frozen=True)
class Judge:
    """Judges the images of requests.

    ```python
    found = await judge.judge([data], model, deadline=time.monotonic() + 10, asked={"accept": 0.99})
    ```

    Every image is counted: under its verdict where it got one, under its code where it cannot be used. Flagged images
    are offered to `sampler`, all answered ones to `shadow`; stages are observed and traced. `top_k` is for requests
    that name none.
    """

    metrics: Metrics
    admission: Admission
    decoders: Decoders
    turns: Turns
    top_k: int
    sampler: Sampler | None = None
    shadow: Shadow | None = None

    async def judge(
        self,
        images: Sequence[ParsedImage],
        model: ServedModel,
        *,
        deadline: float,
        asked: Mapping[str, float] = NOTHING,
        top_k: int | None = None,
        source: str | None = None,
        explain: bool = False,
        read: float = 0.0,
        all_or_none: bool = False,
        caller: str = "",
    ) -> Judgement:
        """Judge the images of one request, by a model that the caller has leased.

        deadline: a time of `time.monotonic`. asked: targets that the request names. explain: say for each image why.
        read: seconds that the request took to arrive. all_or_none: the caller answers none of the images where one
        cannot be used, so the others are not counted as answered. caller: whose turns the images take.

        Raises `RequestError` for a target that the calibration cannot promise or an unknown `source`, `DeadlineMissed`,
        and `EngineError` when inference fails.
        """
        started = time.monotonic()
        targets, thresholds = model.asked(source=source, **asked)
        near = explain or self.sampler is not None
        turnless = set(range(len(images)))
        work = [
            self._in_turn(caller, model, image, deadline, source, near, began=partial(turnless.discard, number))
            for number, image in enumerate(images)
        ]
        try:
            seen = await self._all(work, deadline)
        except DeadlineMissed:
            # What had its turn is counted where it was dropped.
            self.metrics.expired.inc(len(turnless))
            raise
        passed = [one for one, _ in seen]
        judging = time.monotonic()
        calibration, classes = model.manifest.calibration_of(source), model.manifest.classes
        top_k = top_k or self.top_k
        outcomes: list[Outcome] = []
        for (found, _), traits in seen:
            if isinstance(found, ImageError):
                outcomes.append(found)
                continue
            verdict = calibration.verdict(
                found.measured, found.row, classes=classes, thresholds=thresholds, top_k=top_k, traits=traits
            )
            if explain:
                explanation = model.explainer.explain(found.measured, found.row)
                verdict = verdict.model_copy(update={"explanation": explanation})
            outcomes.append(verdict)
        answered = not (all_or_none and any(isinstance(outcome, ImageError) for outcome in outcomes))
        for image, outcome, (found, _) in zip(images, outcomes, passed, strict=True):
            if isinstance(outcome, ImageError):
                self.metrics.refuse(outcome.code)
            elif answered and not isinstance(found, ImageError):
                self._answer(image, outcome, found, model, targets, source)
                if self.shadow is not None and isinstance(image, bytes):
                    self.shadow.offer(image, outcome, asked=asked, source=source)
        ended = time.monotonic()
        self.admission.answered(len(images))
        seconds = self._record(Stages(passed, read=read, started=started, judging=judging, ended=ended), model)
        return Judgement(model.ref, targets, tuple(outcomes), passed, seconds, read + ended - started, source)

    def _answer(
        self,
        image: ParsedImage,
        verdict: Verdict,
        found: MeasuredImage,
        model: ServedModel,
        targets: Targets,
        source: str | None,
    ) -> None:
        self.metrics.answer(verdict, model.manifest, source=source)
        if self.sampler is not None and isinstance(image, bytes):
            explain = partial(model.explainer.explain, found.measured, found.row)
            self.sampler.offer(image, verdict, model=model.ref, accept=targets.accept, explain=explain)

    async def _all(self, work: list[Coroutine[None, None, Seen]], deadline: float) -> list[Seen]:
        """Run to the end, or to the first failure or the deadline; what is unfinished then is withdrawn."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                if len(work) == 1:
                    return [await work[0]]
                tasks = [asyncio.ensure_future(one) for one in work]
                try:
                    return await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
        except TimeoutError:
            raise DeadlineMissed("the request was not answered within its time") from None

    async def _in_turn(
        self,
        caller: str,
        model: ServedModel,
        image: ParsedImage,
        deadline: float,
        source: str | None,
        near: bool,
        *,
        began: Callable[[], None],
    ) -> Seen:
        """Wait for a turn, tell `began`, and measure the image."""
        since = time.monotonic()
        await self.turns.take(caller)
        began()
        waited = time.monotonic() - since
        try:
            (found, decoding), traits = await self._measure(model, image, deadline, source, near)
        finally:
            self.turns.give_back()
        if isinstance(found, MeasuredImage):
            found = replace(found, queued=found.queued + waited)
        return (found, decoding), traits

    async def _measure(
        self, model: ServedModel, image: ParsedImage, deadline: float, source: str | None, near: bool
    ) -> Seen:
        if isinstance(image, ImageError):
            return (image, 0.0), None
        started = time.monotonic()
        if isinstance(image, bytes):
            try:
                picture = await self.decoders.load(image, model.manifest.preprocessing)
            except ImageError as error:
                return (error, time.monotonic() - started), None
            image, traits = picture.pixels, picture.traits
        else:
            # Sooner measured than handed to a thread.
            traits = traits_of(image)
        seconds = time.monotonic() - started
        return (await model.submit(image, deadline=deadline, source=source, neighbours=near), seconds), traits

    def _record(self, stages: Stages, model: ServedModel) -> Seconds:
        seconds = stages.seconds
        self.metrics.stages(seconds)
        trace = CURRENT.get()
        if trace is not None:
            trace.stages(stages, model.ref)
        return seconds

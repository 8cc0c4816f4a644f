"""The one way from parsed images to verdicts, without HTTP, in virtual time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.core.manifest import load_manifest
from oodguard.core.verdict import Verdict
from oodguard.server.app import Parts
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.errors import DeadlineMissed, EngineError, RequestError
from oodguard.server.judging import Judgement
from oodguard.server.settings import ServeSettings
from tests.server import virtual_time

BAD = ImageError(Code.EMPTY, "the image is empty")


class Court:
    """The parts of a server with an engine that takes 1 s for every batch."""

    def __init__(self, bundle: Path) -> None:
        manifest = load_manifest(bundle)
        self.engine = FakeEngine(bundle, manifest)
        self.engine.delay = 1.0
        self.parts = Parts.of(ServeSettings(bundle=bundle, watch=False, max_batch=1), self.engine)
        self._side = manifest.preprocessing.crop

    def pixels(self, level: int) -> Any:
        return np.full((self._side, self._side, 3), level, dtype=np.uint8)

    async def judge(self, *images: Any, seconds: float = 1000.0, **options: Any) -> Judgement:
        model = self.parts.serving.model
        return await self.parts.judge.judge(images, model, deadline=time.monotonic() + seconds, **options)


@pytest.fixture
def play(bundle: Path) -> Callable[[Callable[[Court], Awaitable[None]]], None]:
    def run(scenario: Callable[[Court], Awaitable[None]]) -> None:
        async def body() -> None:
            court = Court(bundle)
            await scenario(court)
            await court.parts.serving.model.batcher.drained()
            await court.parts.close()

        virtual_time.run(body())

    return run


def test_images_keep_their_order_and_their_own_numbers(play: Any) -> None:
    async def scenario(court: Court) -> None:
        found = await court.judge(court.pixels(0), BAD, court.pixels(250), top_k=1)
        dark, bad, bright = found.outcomes
        assert bad is BAD
        assert isinstance(dark, Verdict)
        assert isinstance(bright, Verdict)
        assert [dark.class_index, bright.class_index] == [0, 2]
        assert [len(dark.top_k), found.targets] == [1, court.parts.serving.model.manifest.targets]

    play(scenario)


def test_an_image_that_cannot_be_used_does_not_reach_the_engine(play: Any) -> None:
    async def scenario(court: Court) -> None:
        assert (await court.judge(BAD, BAD)).outcomes == (BAD, BAD)
        assert court.engine.seen == []
        assert court.parts.metrics.totals().refused == 2

    play(scenario)


def test_times_begin_with_the_request(play: Any) -> None:
    async def scenario(court: Court) -> None:
        found = await court.judge(court.pixels(0), read=5.0)
        assert found.stages[0] == 5.0
        assert found.total >= sum(found.stages)

    play(scenario)


def test_at_the_deadline_what_waits_is_withdrawn(play: Any) -> None:
    async def scenario(court: Court) -> None:
        with pytest.raises(DeadlineMissed):
            await court.judge(*(court.pixels(0) for _ in range(9)), seconds=2.5)
        await court.parts.serving.model.batcher.drained()
        assert len(court.engine.seen) == 3 * court.engine.slots

    play(scenario)


def test_a_failed_inference_fails_the_request_and_withdraws_the_rest(play: Any) -> None:
    async def scenario(court: Court) -> None:
        court.engine.fail_next = True
        with pytest.raises(EngineError):
            await court.judge(*(court.pixels(0) for _ in range(5)))
        await court.parts.serving.model.batcher.drained()
        assert len(court.engine.seen) <= 1 + court.engine.slots
        assert court.parts.metrics.totals().images == 0

    play(scenario)


def test_where_the_caller_answers_none_none_is_counted(play: Any) -> None:
    async def scenario(court: Court) -> None:
        metrics = court.parts.metrics
        mixed = (court.pixels(0), BAD, court.pixels(0))
        await court.judge(*mixed, all_or_none=True)
        assert (metrics.totals().images, metrics.totals().refused) == (0, 1)
        await court.judge(*mixed)
        assert (metrics.totals().images, metrics.totals().refused) == (2, 2)
        await court.judge(court.pixels(0), all_or_none=True)
        assert metrics.totals().images == 3
        # Refused or not, each image took a place that is free again.
        assert court.parts.admission.rate == pytest.approx(7 / 5, rel=0.2)

    play(scenario)


def test_a_target_that_cannot_be_promised_costs_no_inference(play: Any) -> None:
    async def scenario(court: Court) -> None:
        with pytest.raises(RequestError, match="at most") as caught:
            await court.judge(court.pixels(0), asked={"accept": 0.99999})
        assert caught.value.code is Code.BAD_PARAMETER
        assert court.engine.seen == []

    play(scenario)

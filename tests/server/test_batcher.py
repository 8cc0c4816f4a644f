"""The batching engine against a fake engine whose every batch can be held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodguard.core.manifest import Manifest, load_manifest
from oodguard.server.batcher import Batcher, Watch
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.errors import DeadlineMissed, EngineError, EngineUnavailable


class Log:
    """What the batcher reported."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def watch(self) -> Watch:
        return Watch(
            batch=lambda size: self.events.append(("batch", size)),
            expired=lambda: self.events.append("expired"),
            engine_error=lambda: self.events.append("error"),
            unavailable=lambda reason: self.events.append("unavailable"),
            stalled=lambda seconds: self.events.append("stalled"),
            recovered=lambda: self.events.append("recovered"),
        )


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return load_manifest(bundle)


def far() -> float:
    return time.monotonic() + 30


Scenario = Callable[[Batcher, FakeEngine, Log, Callable[[int], Any]], Awaitable[None]]


@pytest.fixture
def play(bundle: Path, manifest: Manifest) -> Callable[..., None]:
    """Run a scenario in a loop of its own; leftover tasks or unretrieved errors would be warnings, so failures."""

    def run(scenario: Scenario, *, slots: int = 1, **options: Any) -> None:
        async def body() -> None:
            engine, log = FakeEngine(bundle, manifest, slots=slots), Log()
            given = {"max_batch": 4, "max_delay": 0.0, "stall_after": 10.0} | options
            batcher = Batcher(engine, manifest, watch=log.watch(), **given)
            side = manifest.preprocessing.crop

            def image(level: int) -> Any:
                return np.full((side, side, 3), level, dtype=np.uint8)

            await asyncio.wait_for(scenario(batcher, engine, log, image), 20)

        asyncio.run(body())

    return run


def test_an_idle_engine_is_not_kept_waiting(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        started = time.monotonic()
        await batcher.submit(image(0), deadline=far())
        assert time.monotonic() - started < 1.0

    play(scenario, max_delay=5.0)


def test_what_arrives_while_the_engine_works_forms_one_batch_and_keeps_its_order(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        engine.gate = asyncio.Event()
        levels = [0, 250, 0, 250, 0, 250, 0]
        futures = [batcher.submit(image(level), deadline=far()) for level in levels]
        await asyncio.sleep(0.01)
        assert engine.seen == [1]
        assert batcher.waiting == 6
        engine.gate.set()
        answers = await asyncio.gather(*futures)
        assert engine.seen == [1, 4, 2]
        found = [answer.measured.ranked[answer.row][0] for answer in answers]
        assert found == [0 if level == 0 else 2 for level in levels]

    play(scenario)


def test_a_second_slot_waits_max_delay_for_company(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        engine.gate = asyncio.Event()
        first = batcher.submit(image(0), deadline=far())
        others = [batcher.submit(image(0), deadline=far()) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert engine.seen == [1]
        await asyncio.sleep(0.15)
        assert engine.seen == [1, 2]
        engine.gate.set()
        await asyncio.gather(first, *others)

    play(scenario, slots=2, max_delay=0.08)


def test_a_full_batch_does_not_wait(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        engine.gate = asyncio.Event()
        futures = [batcher.submit(image(0), deadline=far()) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert engine.seen == [1]
        futures += [batcher.submit(image(0), deadline=far()) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert engine.seen == [1, 2]
        engine.gate.set()
        await asyncio.gather(*futures)
        assert sum(engine.seen) == 5

    play(scenario, slots=2, max_delay=5.0)


def test_a_batch_takes_its_slots_share_of_what_waits(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        engine.delay = 0.05
        futures = [batcher.submit(image(0), deadline=far()) for _ in range(7)]
        await asyncio.gather(*futures)
        assert engine.seen[:4] == [1, 1, 3, 1]
        engine.seen.clear()
        await asyncio.gather(*(batcher.submit(image(0), deadline=far()) for _ in range(40)))
        assert max(engine.seen) == 4

    play(scenario, slots=2)


def test_the_departed_and_the_late_are_never_computed(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        engine.gate = asyncio.Event()
        first = batcher.submit(image(0), deadline=far())
        gone = batcher.submit(image(0), deadline=far())
        late = batcher.submit(image(0), deadline=time.monotonic() + 0.02)
        stays = batcher.submit(image(250), deadline=far())
        gone.cancel()
        await asyncio.sleep(0.05)
        engine.gate.set()
        await asyncio.gather(first, stays)
        with pytest.raises(DeadlineMissed):
            await late
        assert engine.seen == [1, 1]
        assert log.events.count("expired") == 1

    play(scenario)


def test_one_departure_does_not_cost_its_batch_mates(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        engine.delay = 0.05
        first = batcher.submit(image(0), deadline=far())
        mates = [batcher.submit(image(0), deadline=far()) for _ in range(3)]
        await first
        while len(engine.seen) < 2:
            await asyncio.sleep(0)
        mates[1].cancel()
        answers = await asyncio.gather(mates[0], mates[2])
        assert [answer.row for answer in answers] == [0, 2]

    play(scenario)


def test_a_failed_batch_reaches_every_waiter_and_the_next_works(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        engine.gate = asyncio.Event()
        first = batcher.submit(image(0), deadline=far())
        doomed = [batcher.submit(image(0), deadline=far()) for _ in range(3)]
        engine.gate.set()
        await first
        engine.fail_next = True
        results = await asyncio.gather(*doomed, return_exceptions=True)
        assert all(isinstance(result, EngineError) for result in results)
        assert log.events.count("error") == 1
        await batcher.submit(image(0), deadline=far())

    play(scenario)


def test_a_dead_engine_is_reported(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        await engine.close()
        with pytest.raises(EngineUnavailable):
            await batcher.submit(image(0), deadline=far())
        assert "unavailable" in log.events

    play(scenario)


def test_a_wedged_engine_is_noticed_and_its_recovery_too(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        engine.gate = asyncio.Event()
        future = batcher.submit(image(0), deadline=far())
        await asyncio.sleep(0.1)
        assert log.events[-1] == "stalled"
        assert batcher.oldest_run > 0.05
        engine.gate.set()
        await future
        await batcher.drained()
        assert log.events[-1] == "recovered"
        assert batcher.oldest_run == 0.0

    play(scenario, stall_after=0.05)


def test_drained_waits_for_the_queue_and_for_what_runs(play: Any) -> None:
    async def scenario(batcher: Batcher, engine: FakeEngine, log: Log, image: Any) -> None:
        await batcher.drained()
        engine.delay = 0.02
        futures = [batcher.submit(image(0), deadline=far()) for _ in range(9)]
        await batcher.drained()
        assert all(future.done() for future in futures)

    play(scenario)

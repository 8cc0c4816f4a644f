"""The batching engine against a fake engine whose every batch can be held, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodguard.core.manifest import Manifest, load_manifest
from oodguard.server.batcher import Batcher, MeasuredImage
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.errors import DeadlineMissed, EngineError, EngineUnavailable
from tests.server import virtual_time

Future = asyncio.Future[MeasuredImage]


class Events:
    """What the batcher reported, and when."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str]] = []

    def _note(self, what: str) -> None:
        self.seen.append((round(now(), 6), what))

    def batch(self, images: int) -> None:
        self._note(f"batch of {images}")

    def expired(self) -> None:
        self._note("expired")

    def engine_error(self, error: Exception) -> None:
        self._note("engine error")

    def measured(self) -> None:
        """Every batch that does not fail: `batch` says as much."""

    def unavailable(self, reason: str) -> None:
        self._note("unavailable")

    def stalled(self, seconds: float) -> None:
        self._note(f"stalled for {seconds:g}")

    def recovered(self) -> None:
        self._note("recovered")


class Bench:
    """A batcher under test; its engine takes 1 s for every batch."""

    def __init__(self, bundle: Path, manifest: Manifest, *, slots: int, **options: Any) -> None:
        self.engine = FakeEngine(bundle, manifest, slots=slots)
        self.engine.delay = 1.0
        self.events = Events()
        given = {"max_batch": 4, "max_delay": 0.0, "stall_after": 100.0} | options
        self.batcher = Batcher(self.engine, manifest, events=self.events, clock=now, **given)
        self._side = manifest.preprocessing.crop

    def submit(self, level: int = 0, *, within: float = 1000.0) -> Future:
        """Queue an image of one grey level."""
        pixels = np.full((self._side, self._side, 3), level, dtype=np.uint8)
        return self.batcher.submit(pixels, deadline=now() + within)


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(moment: float) -> None:
    """Let everything happen that happens until then."""
    await asyncio.sleep(moment - now())


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return load_manifest(bundle)


Scenario = Callable[[Bench], Awaitable[None]]


@pytest.fixture
def play(bundle: Path, manifest: Manifest) -> Callable[..., None]:
    """Run a scenario; keyword arguments are the batcher's."""

    def run(scenario: Scenario, *, slots: int = 1, **options: Any) -> None:
        async def body() -> None:
            await scenario(Bench(bundle, manifest, slots=slots, **options))

        virtual_time.run(body())

    return run


def test_an_idle_engine_is_not_kept_waiting(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        image = await bench.submit()
        assert now() == 1.0
        assert (image.queued, image.ran) == (0.0, 1.0)

    play(scenario, max_delay=5.0)


def test_what_arrives_while_the_engine_works_forms_batches_and_keeps_its_order(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        levels = [0, 250, 0, 250, 0, 250, 0]
        images = await asyncio.gather(*map(bench.submit, levels))
        assert bench.events.seen == [(0.0, "batch of 1"), (1.0, "batch of 4"), (2.0, "batch of 2")]
        assert [(image.queued, image.ran) for image in images] == [(0.0, 1.0), *[(1.0, 1.0)] * 4, *[(2.0, 1.0)] * 2]
        found = [image.measured.ranked[image.row][0] for image in images]
        assert found == [0 if level == 0 else 2 for level in levels]

    play(scenario)


def test_a_second_slot_waits_max_delay_for_company(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.submit()
        second = bench.submit()
        await until(0.3)
        third = bench.submit()
        await asyncio.gather(first, second, third)
        # The oldest image of the queue decides, not the newest.
        assert bench.events.seen == [(0.0, "batch of 1"), (0.5, "batch of 1"), (1.0, "batch of 1")]
        assert (second.result().queued, third.result().queued) == (0.5, 0.7)

    play(scenario, slots=2, max_delay=0.5)


def test_a_full_batch_does_not_wait(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        futures = [bench.submit() for _ in range(4)]
        await until(0.25)
        assert bench.events.seen == [(0.0, "batch of 1")]
        futures.append(bench.submit())
        await until(0.5)
        assert bench.events.seen[1:] == [(0.25, "batch of 2")]
        await asyncio.gather(*futures)

    play(scenario, slots=2, max_delay=5.0)


def test_every_batch_has_a_wait_of_its_own(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.delay = 10.0
        futures = [bench.submit(), bench.submit()]
        await until(0.6)
        futures.append(bench.submit())
        await asyncio.gather(*futures)
        assert bench.events.seen == [(0.0, "batch of 1"), (0.5, "batch of 1"), (1.1, "batch of 1")]

    play(scenario, slots=3, max_delay=0.5)


def test_a_wait_that_ended_for_nobody_leaves_the_next_one_as_long(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.delay = 10.0
        first, gone = bench.submit(), bench.submit()
        gone.cancel()
        await until(0.6)
        await asyncio.gather(first, bench.submit())
        assert bench.events.seen == [(0.0, "batch of 1"), (1.1, "batch of 1")]

    play(scenario, slots=2, max_delay=0.5)


def test_a_batch_takes_its_slots_share_of_what_waits(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        await asyncio.gather(*(bench.submit() for _ in range(7)))
        assert bench.engine.seen == [1, 1, 3, 1, 1]
        bench.engine.seen.clear()
        await asyncio.gather(*(bench.submit() for _ in range(40)))
        assert max(bench.engine.seen) == 4

    play(scenario, slots=2)


def test_the_departed_and_the_late_are_never_computed(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.submit()
        gone = bench.submit()
        late = bench.submit(within=0.9)
        punctual = bench.submit(250, within=1.1)
        gone.cancel()
        await asyncio.gather(first, punctual)
        with pytest.raises(DeadlineMissed):
            await late
        assert bench.events.seen == [(0.0, "batch of 1"), (1.0, "expired"), (1.0, "batch of 1")]

    play(scenario)


def test_one_departure_does_not_cost_its_batch_mates(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.submit()
        mates = [bench.submit() for _ in range(3)]
        await until(1.5)
        assert first.done()
        mates[1].cancel()
        images = await asyncio.gather(mates[0], mates[2])
        assert bench.engine.seen == [1, 3]
        assert [image.row for image in images] == [0, 2]

    play(scenario)


def test_a_failed_batch_reaches_every_waiter_and_the_next_works(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.submit()
        doomed = [bench.submit() for _ in range(3)]
        await first
        bench.engine.fail_next = True
        results = await asyncio.gather(*doomed, return_exceptions=True)
        assert [type(result) for result in results] == [EngineError] * 3
        assert bench.events.seen[2:] == [(2.0, "engine error")]
        await bench.submit()

    play(scenario)


def test_a_dead_engine_is_reported(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.engine.close()
        with pytest.raises(EngineUnavailable):
            await bench.submit()
        assert bench.events.seen == [(0.0, "batch of 1"), (0.0, "unavailable")]

    play(scenario)


def test_a_wedged_engine_is_noticed_and_its_recovery_too(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        bench.engine.delay = 7.0
        longer = bench.submit()
        await until(1.0)
        bench.engine.delay = 4.0
        shorter = bench.submit()  # in the other slot
        await until(4.5)
        assert bench.batcher.oldest_run == 4.5
        await asyncio.gather(longer, shorter)
        await bench.batcher.drained()
        assert bench.events.seen[2:] == [(2.0, "stalled for 2"), (3.0, "stalled for 2"), (7.0, "recovered")]
        assert bench.batcher.oldest_run == 0.0

    play(scenario, slots=2, stall_after=2.0)


def test_a_batch_that_ends_in_time_raises_no_alarm(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.submit()
        await until(10.0)
        assert bench.events.seen == [(0.0, "batch of 1")]

    play(scenario, stall_after=1.5)


def test_drained_waits_for_the_queue_and_for_what_runs(play: Any) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.batcher.drained()
        futures = [bench.submit() for _ in range(9)]
        await bench.batcher.drained()
        assert now() == 3.0
        assert all(future.done() for future in futures)

    play(scenario)

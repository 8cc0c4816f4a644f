"""The guard for asyncio: the sync guard's answers, without holding up the caller's event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import oodguard
from oodguard.core.answers import PredictResponse, Result
from oodguard.server.errors import EngineUnavailable
from oodguard.server.guard import AsyncGuard
from tests.server.guards import WAIT, Gated, grey, guarded


@pytest.fixture
def images(photos: Path, strangers: Path) -> list[Path]:
    return [*sorted((photos / "test" / "jade").iterdir())[:5], *sorted(strangers.rglob("*.png"))[:5]]


def test_async_answers_are_the_same(bundle: Path, images: list[Path]) -> None:
    async def ask() -> tuple[list[PredictResponse], list[Result]]:
        async with oodguard.aload(bundle) as guard:
            assert isinstance(guard, AsyncGuard)
            answers = await asyncio.gather(guard.predict(images, accept=0.9), guard.predict(images[0]))
            results = [result async for result in guard.stream([*images, b"junk"], accept=0.9)]
        with pytest.raises(EngineUnavailable, match="closed"):
            await guard.predict(images[0])
        return answers, results

    answers, results = asyncio.run(ask())
    with oodguard.load(bundle) as guard:
        expected = guard.predict(images, accept=0.9), guard.predict(images[0])
        assert results == list(guard.stream([*images, b"junk"], accept=0.9))
    for answer, same in zip(answers, expected, strict=True):
        assert answer.model_dump(exclude={"timing_ms"}) == same.model_dump(exclude={"timing_ms"})
    assert results[-1].problem
    assert results[-1].problem.code == "unsupported_type"


def test_an_async_guard_can_be_awaited_and_serves_several_loops(bundle: Path, images: list[Path]) -> None:
    async def opened() -> AsyncGuard:
        return await oodguard.aload(bundle, sessions=1)

    guard = asyncio.run(opened())
    assert repr(guard).endswith("1 x 1 threads, batch 8>")
    for _ in range(2):
        assert len(asyncio.run(guard.predict(images[:2])).predictions) == 2
    asyncio.run(guard.close())
    assert not guard._judge._thread.is_alive()


def test_the_callers_loop_goes_on_while_a_guard_works(bundle: Path) -> None:
    with guarded(bundle, Gated, kind=AsyncGuard) as (guard, fake):

        async def ask() -> int:
            asked = asyncio.create_task(guard.predict([grey(9)] * 8))
            # The engine is let on from this very loop: a guard that held it up would never answer.
            while not fake.begun:
                await asyncio.sleep(0.001)
            fake.opened.set()
            return len((await asyncio.wait_for(asked, WAIT)).predictions)

        assert asyncio.run(ask()) == 8


def test_loading_leaves_the_loop_free(bundle: Path) -> None:
    async def ask() -> int:
        ticks = 0
        loading = asyncio.ensure_future(oodguard.aload(bundle))
        while not loading.done():
            ticks += 1
            await asyncio.sleep(0.001)
        await (await loading).close()
        return ticks

    assert asyncio.run(ask()) > 3


def test_a_cancelled_call_is_withdrawn(bundle: Path) -> None:
    with guarded(bundle, Gated, kind=AsyncGuard, slots=1, max_batch=1) as (guard, fake):

        async def ask() -> int:
            abandoned = asyncio.create_task(guard.predict([grey(9)] * 50))
            while not fake.begun:
                await asyncio.sleep(0.001)
            abandoned.cancel()
            with pytest.raises(asyncio.CancelledError):
                await abandoned
            fake.opened.set()
            return len((await asyncio.wait_for(guard.predict([grey(1)] * 2), WAIT)).predictions)

        assert asyncio.run(ask()) == 2
        assert fake.ended <= 3

"""Callers share the server: whose place a full queue gives away, and whose turn comes next."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from oodguard.load_tests.process import HOST, wait_until
from oodguard.server.admission import Admission, Reservation
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.errors import Overloaded
from oodguard.server.keys import digest, new_key
from oodguard.server.settings import ServeSettings
from oodguard.server.turns import Turns, Weights, caller_of

PNG = {"content-type": "image/png"}


@pytest.mark.parametrize(
    ("key", "address", "caller"),
    [
        ("alice", "10.0.0.7", "key:alice"),
        (None, "10.0.0.7", "10.0.0.7"),
        (None, "fd00::1:2:3:4", "fd00::/64"),
        (None, "fe80::9%eth0", "fe80::/64"),
        (None, "::ffff:10.0.0.7", "10.0.0.7"),
        (None, "testclient", "testclient"),
        (None, None, ""),
    ],
)
def test_whom_a_request_counts_for(key: str | None, address: str | None, caller: str) -> None:
    assert caller_of(key, address) == caller


async def hold(admission: Admission, caller: str, images: int, entered: list[Reservation]) -> str:
    """Hold so many images until cancelled; how it ended."""
    try:
        with admission.enter(caller, task=asyncio.current_task()) as reservation:
            reservation.grow(images=images)
            entered.append(reservation)
            await asyncio.sleep(60)
    except Overloaded as error:
        return str(error)
    return "held"


def test_a_full_queue_makes_room_for_whom_holds_less_than_its_share() -> None:
    async def story() -> None:
        admission, entered = Admission(max_images=10, max_bytes=1000), list[Reservation]()
        hogs = [asyncio.create_task(hold(admission, "hog", 2, entered)) for _ in range(5)]
        await asyncio.sleep(0)
        assert admission.images == 10
        # Alone it may have everything, and nothing more.
        assert "there is no room for more" in await hold(admission, "hog", 1, entered)
        other = asyncio.create_task(hold(admission, "other", 3, entered))
        await asyncio.sleep(0)
        # The newest two of the hog went, at once.
        assert admission.images == 9
        assert [one.displaced for one in entered[:5]] == [False, False, False, True, True]
        await asyncio.sleep(0.01)
        assert [task.done() for task in hogs] == [False, False, False, True, True]
        assert "another caller's turn came" in hogs[4].result()
        assert not other.done()
        # Six of ten are more than the hog's half now: one more goes; then nobody is above a share.
        third = asyncio.create_task(hold(admission, "other", 2, entered))
        await asyncio.sleep(0.01)
        assert (admission.images, hogs[2].done(), third.done()) == (9, True, False)
        assert "there is no room for more" in await hold(admission, "other", 2, entered)
        for task in (*hogs, other, third):
            task.cancel()
        await asyncio.gather(*hogs, other, third, return_exceptions=True)
        assert (admission.images, admission.bytes) == (0, 0)

    asyncio.run(story())


def test_weights_are_shares_and_one_caller_may_be_bounded() -> None:
    async def story() -> None:
        weights = Weights({"gold": 3.0})
        admission, entered = Admission(max_images=8, max_bytes=100, weights=weights), list[Reservation]()
        hogs = [asyncio.create_task(hold(admission, "10.0.0.7", 1, entered)) for _ in range(8)]
        await asyncio.sleep(0)
        gold = [asyncio.create_task(hold(admission, "key:gold", 1, entered)) for _ in range(8)]
        await asyncio.sleep(0.05)
        # Three quarters of eight.
        assert [sum(not task.done() for task in tasks) for tasks in (hogs, gold)] == [2, 6]
        for task in (*hogs, *gold):
            task.cancel()
        await asyncio.gather(*hogs, *gold, return_exceptions=True)
        bounded = Admission(max_images=8, max_bytes=100, max_of_one=3)
        with bounded.enter("a") as first, bounded.enter("b") as second:
            first.grow(images=3)
            with pytest.raises(Overloaded, match="3 of them are yours, and 3 may be"):
                first.grow(images=1)
            with pytest.raises(Overloaded), bounded.enter("a"):
                pass
            second.grow(images=3)

    asyncio.run(story())


def test_a_request_that_is_cancelled_for_another_reason_stays_cancelled() -> None:
    async def story() -> None:
        admission = Admission(max_images=2, max_bytes=10)
        task = asyncio.create_task(hold(admission, "a", 1, []))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert admission.images == 0

    asyncio.run(story())


def test_turns_go_round_by_weight() -> None:
    async def story(weights: Weights) -> list[str]:
        turns, order = Turns(1, weights), list[str]()

        async def work(caller: str) -> None:
            await turns.take(caller)
            order.append(caller)
            await asyncio.sleep(0)
            turns.give_back()

        tasks = [asyncio.create_task(work("hog")) for _ in range(9)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(work("key:gold")) for _ in range(4)]
        await asyncio.gather(*tasks)
        assert turns._free == 1
        return order

    even = asyncio.run(story(Weights()))
    # Two were ahead when the other came; from then on they alternate.
    assert even[2:10] == ["hog", "key:gold"] * 4
    gold = asyncio.run(story(Weights({"gold": 3.0})))
    assert gold[2:6].count("key:gold") == 3
    assert Counter(even) == Counter(gold) == {"hog": 9, "key:gold": 4}


def test_a_turn_that_nobody_waits_for_any_more_is_not_lost() -> None:
    async def story() -> None:
        turns = Turns(1, Weights())
        await turns.take("a")
        waiting = [asyncio.create_task(turns.take("b")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        turns.give_back()
        # The second one was given the turn and is cancelled before it runs.
        waiting[1].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [task.cancelled() for task in waiting] == [True, True, False]
        await waiting[2]
        turns.give_back()
        assert turns._free == 1

    asyncio.run(story())


def test_one_key_does_not_refuse_anothers_requests(start: Any, fake: FakeEngine, picture: Any) -> None:
    keys = {name: new_key() for name in ("hog", "alice")}
    client = start(
        engine=fake,
        max_queue=8,
        max_files=4,
        key_hashes=",".join(f"{name}:{digest(key)}" for name, key in keys.items()),
    )

    def post(name: str, count: int) -> int:
        files = [("image", (f"{number}.png", picture(), "image/png")) for number in range(count)]
        status: int = client.post("/predict", files=files, headers={"x-api-key": keys[name]}).status_code
        return status

    with ThreadPoolExecutor(4) as pool:
        with client.held(fake):
            hogs = [pool.submit(post, "hog", 4) for _ in range(2)]
            wait_until(lambda: client.parts.admission.images == 8)
            assert post("hog", 1) == 429
            honest = pool.submit(post, "alice", 2)
            wait_until(lambda: client.parts.admission.images == 6)
        assert sorted(one.result() for one in hogs) == [200, 429]
        assert honest.result() == 200
    assert client.sample('oodguard_key_requests_total{key="alice",status="200"}') == 1
    assert client.sample('oodguard_key_requests_total{key="hog",status="429"}') == 2
    assert (client.parts.admission.images, client.parts.admission.bytes) == (0, 0)


def test_one_address_does_not_refuse_anothers_requests(server: Any, golden: list[bytes]) -> None:
    running = server("--max-queue", "16", "--max-files", "8", "--sessions", "1")
    files = [("image", (f"{number}.jpg", golden[0], "image/jpeg")) for number in range(8)]
    over, refused = threading.Event(), list[int]()

    def hog() -> None:
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), timeout=30) as client:
            while not over.is_set():
                refused.append(client.post(f"http://{HOST}:{running.port}/predict", files=files).status_code)

    with ThreadPoolExecutor(6) as pool:
        hogs = [pool.submit(hog) for _ in range(6)]
        try:
            wait_until(lambda: 429 in refused)
            with httpx.Client(timeout=30) as client:
                statuses = Counter(
                    client.post(f"{running.url}/predict", content=golden[0], headers=PNG).status_code for _ in range(40)
                )
        finally:
            over.set()
        for one in hogs:
            one.result(60)
    assert statuses == {200: 40}
    wait_until(lambda: running.sample("oodguard_queue_images") == 0)


@pytest.mark.parametrize("text", ["alice", "alice=0", "alice=-1", "alice=x", "alice=٣", "=2", "a=1,,b=2"])
def test_weights_are_numbers_above_0(text: str) -> None:
    with pytest.raises(ValidationError, match="as in alice=4"):
        ServeSettings(key_hashes=f"alice:{digest('k')}", bundle=Path("b"), key_weights=text)


def test_weights_are_read() -> None:
    settings = ServeSettings(key_hashes=f"alice:{digest('k')}", bundle=Path("b"), key_weights="alice=4,bob=0.5")
    assert settings.weights == {"alice": 4.0, "bob": 0.5}
    with pytest.raises(ValidationError, match="key_weights needs"):
        ServeSettings(bundle=Path("b"), key_weights="alice=4")

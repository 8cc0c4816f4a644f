"""The load client against real, tiny servers on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable

import pytest

from oodguard.load_tests.load import LoadResult, schedule
from oodguard.load_tests.load_client import LoadClient, saturate
from oodguard.load_tests.process import HOST
from oodguard.load_tests.request import requests_of

REQUESTS = requests_of("raw", [b"first", b"the second"])
Answer = Callable[[int, bytes], Awaitable[bytes | None]]


def reply(status: str, *, headers: str = "", body: bytes = b"{}") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


async def served(answer: Answer, due: list[float], *, seconds: float = 0.2, timeout: float = 2.0) -> LoadResult:
    """Offer `due` to a server that answers request number n with `answer(n, body)`; None hangs up."""
    return await driven(answer, lambda client: client.offer(due, seconds=seconds), timeout=timeout)


async def driven(answer: Answer, drive: Callable[[LoadClient], Awaitable[LoadResult]], *, timeout: float) -> LoadResult:
    """Let a client loose on such a server."""
    number = itertools.count()
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        talks.add(me)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                said = await answer(next(number), await reader.readexactly(length))
                if said is None:
                    break
                writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(talk, HOST, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await drive(LoadClient(REQUESTS, port=port, timeout=timeout))
        for talk_task in talks:
            talk_task.cancel()
        await asyncio.gather(*talks)
        await asyncio.sleep(0)
        return result


def test_every_request_is_answered_and_bodies_rotate() -> None:
    bodies: list[bytes] = []

    async def answer(number: int, body: bytes) -> bytes:
        bodies.append(body)
        return reply("200 OK")

    result = asyncio.run(served(answer, schedule(100, 0.2, arrivals="constant")))
    assert result.outcomes == {"200": 20}
    assert result.accepted == 20
    assert result.errors == 0
    assert sorted(bodies) == [b"first"] * 10 + [b"the second"] * 10
    assert result.latency(100) < 200


def test_a_pause_of_the_server_counts_for_every_request_due_in_it() -> None:
    open_again = asyncio.Event()

    async def answer(number: int, body: bytes) -> bytes:
        if number == 0:
            asyncio.get_running_loop().call_later(0.3, open_again.set)
        await open_again.wait()
        return reply("200 OK")

    result = asyncio.run(served(answer, schedule(50, 0.2, arrivals="constant")))
    assert result.accepted == 10
    # Due at 0 to 180 ms, all answered at about 300: a client that waited its turn would see one slow request.
    assert result.latency(1) > 100
    assert result.latency(100) >= 295


def test_refusals_and_failures_are_told_apart() -> None:
    statuses = ["200 OK", "429 Too Many Requests", "503 Service Unavailable", "504 Gateway Timeout", "500 Oh"]

    async def answer(number: int, body: bytes) -> bytes:
        return reply(statuses[number % 5], headers="Connection: close\r\n")

    result = asyncio.run(served(answer, schedule(50, 0.2, arrivals="constant")))
    assert result.outcomes == {"200": 2, "429": 2, "500": 2, "503": 2, "504": 2}
    assert result.errors == 2


def test_a_stale_connection_is_replaced_but_a_server_that_hangs_up_is_an_error() -> None:
    async def stale(number: int, body: bytes) -> bytes | None:
        return None if number == 1 else reply("200 OK")

    async def never(number: int, body: bytes) -> bytes | None:
        return None

    due = [0.0, 0.05, 0.1]
    assert asyncio.run(served(stale, due)).outcomes == {"200": 3}
    assert asyncio.run(served(never, due)).outcomes == {"broken": 3}


def test_silence_ends_in_a_timeout() -> None:
    async def answer(number: int, body: bytes) -> bytes:
        await asyncio.sleep(60)
        return b""

    result = asyncio.run(served(answer, [0.0, 0.01], seconds=0.05, timeout=0.15))
    assert result.outcomes == {"timeout": 2}
    assert result.accepted == 0


def test_answers_in_pieces_and_in_chunks_are_whole() -> None:
    async def answer(number: int, body: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"

    assert asyncio.run(served(answer, [0.0, 0.02])).outcomes == {"200": 2}


def test_nobody_listening_is_an_error_not_a_crash() -> None:
    result = asyncio.run(LoadClient(REQUESTS, port=1, timeout=0.5).offer([0.0], seconds=0.01))
    assert result.outcomes == {"broken": 1}


def test_work_after_the_load_runs_while_answers_are_outstanding() -> None:
    seen: list[str] = []

    async def scenario() -> LoadResult:
        gone = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"first")
            await asyncio.sleep(0.2)
            seen.append("answered")
            writer.write(reply("200 OK"))
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.transport.abort()
            gone.set()

        async def after() -> None:
            seen.append("after")

        async with await asyncio.start_server(talk, HOST, 0) as server:
            port = server.sockets[0].getsockname()[1]
            result = await LoadClient(REQUESTS, port=port, timeout=2).offer([0.0], seconds=0.05, after=after)
            await gone.wait()
            return result

    assert asyncio.run(scenario()).accepted == 1
    assert seen == ["after", "answered"]


def test_the_client_reports_its_own_cost() -> None:
    async def answer(number: int, body: bytes) -> bytes:
        return reply("200 OK")

    result = asyncio.run(served(answer, schedule(100, 0.2)))
    assert 0 < result.client_cpu < 1
    assert result.late_p99_ms == pytest.approx(0, abs=100)


def saturated(answer: Answer, *, connections: int, seconds: float = 0.4, warmup: float = 0.0) -> LoadResult:
    def drive(client: LoadClient) -> Awaitable[LoadResult]:
        until = asyncio.ensure_future(asyncio.sleep(warmup + seconds))
        return client.saturate(connections=connections, until=until, warmup=warmup)

    return asyncio.run(driven(answer, drive, timeout=2.0))


def test_a_closed_loop_keeps_one_request_on_each_connection() -> None:
    inside = most = 0

    async def answer(number: int, body: bytes) -> bytes:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.05)
        inside -= 1
        return reply("200 OK")

    result = saturated(answer, connections=3)
    assert most == 3
    # Eight answers of 50 ms fit into 0.4 s; the three that come later do not count.
    assert 3 * 5 <= result.accepted <= 3 * 8
    assert result.rate == pytest.approx(result.accepted / 0.4, rel=0.1)
    assert result.latency(50) == pytest.approx(50, abs=25)


def test_what_is_answered_while_warming_up_does_not_count() -> None:
    statuses = itertools.chain(["503 Not Ready"] * 4, itertools.repeat("200 OK"))

    async def answer(number: int, body: bytes) -> bytes:
        await asyncio.sleep(0.02)
        return reply(next(statuses))

    result = saturated(answer, connections=2, seconds=0.2, warmup=0.2)
    assert set(result.outcomes) == {"200"}
    assert result.seconds == pytest.approx(0.2, abs=0.1)


def test_a_closed_loop_goes_on_where_a_server_hangs_up() -> None:
    async def answer(number: int, body: bytes) -> bytes | None:
        await asyncio.sleep(0.01)
        return reply("200 OK", headers="Connection: close\r\n") if number % 2 else None

    result = saturated(answer, connections=2)
    assert result.count("200") > 3
    assert result.count("broken") > 3
    assert result.failed == result.count("broken")


def test_a_closed_loop_against_nobody_ends() -> None:
    assert saturate(REQUESTS, port=1, connections=2, seconds=0.1).outcomes == {"broken": 2}

"""The open-loop client against real, tiny servers on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable

import pytest

from oodguard.load_tests.load import LoadResult, schedule
from oodguard.load_tests.open_loop import OpenLoop
from oodguard.load_tests.serving import HOST
from oodguard.load_tests.wrk import raw_form

FORM = raw_form([b"first", b"the second"])
Answer = Callable[[int, bytes], Awaitable[bytes | None]]


def reply(status: str, *, headers: str = "", body: bytes = b"{}") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


async def served(answer: Answer, due: list[float], *, seconds: float = 0.2, timeout: float = 2.0) -> LoadResult:
    """Offer `due` to a server that answers request number n with `answer(n, body)`; None hangs up."""
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
        result = await OpenLoop(FORM, port=port, timeout=timeout).offer(due, seconds=seconds)
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
    result = asyncio.run(OpenLoop(FORM, port=1, timeout=0.5).offer([0.0], seconds=0.01))
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
            result = await OpenLoop(FORM, port=port, timeout=2).offer([0.0], seconds=0.05, after=after)
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

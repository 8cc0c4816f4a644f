"""The HTTP client that makes load: at a fixed rate (open loop) or as much as a server takes (closed loop).

At a fixed rate requests leave when they are due, whether or not the server has answered the ones before. A client that
waits for the server hides its queue; here latency counts from the moment a request was due, so the time it spends
waiting for a connection, or for this client, is part of it.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from oodguard.load_tests.harness import percentile
from oodguard.load_tests.load import LoadResult
from oodguard.load_tests.process import HOST
from oodguard.load_tests.request import Request

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
TIMEOUT = 10.0
CONNECTIONS = 512
SWEEP_SECONDS = 0.05


@dataclass
class Ticket:
    """One request on its way: when it was due, its bytes, and whether it was already sent on a stale connection."""

    due: float
    content: bytes
    done: bool = False
    retried: bool = False


class LoadClient:
    """Sends `requests` to a port of this machine, over and over.

    ```python
    result = asyncio.run(LoadClient(requests, port=8000).offer(schedule(50, 10), seconds=10))
    result = saturate(requests, port=8000, connections=16, seconds=10)
    ```

    `read` is given the status and body of every answer.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        *,
        port: int,
        timeout: float = TIMEOUT,
        read: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self._port = port
        self._timeout = timeout
        self._contents = itertools.cycle([request.encode() for request in requests])
        self._read = read
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[Ticket] = deque()
        self._unfinished: deque[Ticket] = deque()
        self._saturating = False
        self._begin()

    def _begin(self) -> None:
        """Count from now on."""
        self._outcomes: Counter[str] = Counter()
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._began, self._cpu = time.perf_counter(), time.process_time()

    async def offer(
        self, due: Sequence[float], *, seconds: float, after: Callable[[], Awaitable[None]] | None = None
    ) -> LoadResult:
        """Send one request at each moment of `due`; the result once all have ended, by an answer or by the timeout.

        `after` is awaited as soon as the last request has left, while earlier ones may still be on their way.
        """
        self._begin()
        begin = self._began
        sweeper = asyncio.create_task(self._sweep())
        try:
            for index, offset in enumerate(due):
                delay = begin + offset - time.perf_counter()
                if delay > 0:
                    await asyncio.sleep(delay)
                elif index % 16 == 0:
                    # Behind schedule: answers must be read all the same.
                    await asyncio.sleep(0)
                self._send(self._ticket(begin + offset))
            await asyncio.sleep(max(begin + seconds - time.perf_counter(), 0))
            used = self._used()
            if after:
                await after()
            while self._unfinished:
                await asyncio.sleep(SWEEP_SECONDS)
        finally:
            await self._end(sweeper)
        return self._result(offered=len(due) / seconds, seconds=seconds, client_cpu=used)

    async def saturate(self, *, connections: int, until: Awaitable[object], warmup: float = 0.0) -> LoadResult:
        """Keep one request on each of `connections`; what came of them from `warmup` seconds on until `until` ends."""
        self._saturating = True
        sweeper = asyncio.create_task(self._sweep())
        try:
            for _ in range(connections):
                self._send(self._ticket(time.perf_counter()))
            await asyncio.sleep(warmup)
            self._begin()
            await until
            self._saturating = False
            result = self._result(offered=0.0, seconds=time.perf_counter() - self._began, client_cpu=self._used())
            while self._unfinished:
                await asyncio.sleep(SWEEP_SECONDS)
        finally:
            self._saturating = False
            await self._end(sweeper)
        return result

    def _used(self) -> float:
        return (time.process_time() - self._cpu) / (time.perf_counter() - self._began)

    def _result(self, *, offered: float, seconds: float, client_cpu: float) -> LoadResult:
        return LoadResult(
            offered=offered,
            seconds=seconds,
            outcomes=dict(sorted(self._outcomes.items())),
            latencies=tuple(sorted(self._latencies)),
            late_p99_ms=percentile(self._late, 99),
            client_cpu=client_cpu,
        )

    async def _end(self, sweeper: asyncio.Task[None]) -> None:
        sweeper.cancel()
        for task in self._opening:
            task.cancel()
        for connection in list(self._open):
            connection.abort()
        while self._open:
            await asyncio.sleep(0)

    def _ticket(self, due: float) -> Ticket:
        ticket = Ticket(due, next(self._contents))
        self._unfinished.append(ticket)
        return ticket

    def _send(self, ticket: Ticket) -> None:
        if self._idle:
            # The most recently used one: the others may reach the server's keep-alive limit, and then close.
            self._put(self._idle.pop(), ticket)
        else:
            self._waiting.append(ticket)
            if len(self._open) + len(self._opening) < CONNECTIONS:
                task = asyncio.create_task(self._connect())
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)

    def _put(self, connection: _Connection, ticket: Ticket) -> None:
        if not ticket.retried:
            self._late.append(1e3 * (time.perf_counter() - ticket.due))
        connection.send(ticket)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), HOST, self._port)
        except OSError:
            if self._waiting:
                self.ended(self._waiting.popleft(), "broken")
            return
        self._open.add(connection)
        self.free(connection)

    def free(self, connection: _Connection) -> None:
        """A connection can take the next request."""
        while self._waiting:
            ticket = self._waiting.popleft()
            if not ticket.done:
                self._put(connection, ticket)
                return
        if self._saturating:
            self._put(connection, self._ticket(time.perf_counter()))
        else:
            self._idle.append(connection)

    def answered(self, status: str, body: bytes) -> None:
        """An answer is complete."""
        if self._read is not None:
            self._read(int(status), body)

    def lost(self, connection: _Connection, ticket: Ticket | None, *, stale: bool) -> None:
        """A connection closed, with `ticket` unanswered; `stale`: it had served before and said nothing to this one."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if ticket is not None and not ticket.done:
            if stale and not ticket.retried:
                ticket.retried = True
                self._send(ticket)
                return
            self.ended(ticket, "broken")
        if self._saturating:
            self._send(self._ticket(time.perf_counter()))

    def ended(self, ticket: Ticket, outcome: str) -> None:
        """A request has its outcome."""
        if ticket.done:
            return
        ticket.done = True
        self._outcomes[outcome] += 1
        if outcome.startswith("2"):
            self._latencies.append(1e3 * (time.perf_counter() - ticket.due))

    async def _sweep(self) -> None:
        while True:
            now = time.perf_counter()
            while self._unfinished and (self._unfinished[0].done or self._unfinished[0].due + self._timeout < now):
                self.ended(self._unfinished.popleft(), "timeout")
            for connection in list(self._open):
                if connection.ticket is not None and connection.ticket.done:
                    connection.abort()
            await asyncio.sleep(SWEEP_SECONDS)


class _Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request on it."""

    def __init__(self, client: LoadClient) -> None:
        self.ticket: Ticket | None = None
        self._client = client
        self._buffer = bytearray()
        self._answered = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, ticket: Ticket) -> None:
        assert self._transport is not None
        self.ticket = ticket
        self._transport.write(ticket.content)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0 or self.ticket is None:
            return
        length = LENGTH.search(self._buffer, 0, head + 2)
        if length is not None:
            complete = len(self._buffer) >= head + 4 + int(length[1])
        else:
            complete = self._buffer.endswith(b"\r\n0\r\n\r\n")
        if not complete:
            return
        status, closing = bytes(self._buffer[9:12]).decode(), b"connection: close" in self._buffer[:head].lower()
        body = bytes(self._buffer[head + 4 :])
        ticket, self.ticket = self.ticket, None
        self._buffer.clear()
        self._answered += 1
        self._client.ended(ticket, status)
        self._client.answered(status, body)
        if closing:
            self.abort()
        else:
            self._client.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        ticket, self.ticket = self.ticket, None
        self._client.lost(self, ticket, stale=self._answered > 0 and not self._buffer)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def saturate(
    requests: Sequence[Request], *, port: int, connections: int, seconds: float, warmup: float = 0.0
) -> LoadResult:
    """What comes of `connections` that each send the next request as soon as the last one is answered."""

    async def run() -> LoadResult:
        client = LoadClient(requests, port=port)
        ending = asyncio.create_task(asyncio.sleep(warmup + seconds))
        return await client.saturate(connections=connections, until=ending, warmup=warmup)

    return asyncio.run(run())

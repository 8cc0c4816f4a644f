"""The open-loop client: requests leave when they are due, whether or not the server has answered the ones before.

A closed-loop client waits for the server and so hides its queue. Here latency is counted from the moment a request was
due, so time spent waiting for a connection, or for this client, is part of it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from oodguard.load_tests.harness import percentile
from oodguard.load_tests.load import LoadResult
from oodguard.load_tests.serving import HOST
from oodguard.load_tests.wrk import Form

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
TIMEOUT = 10.0
SWEEP_SECONDS = 0.05


@dataclass
class Ticket:
    """One request on its way: when it was due, its bytes, and whether it was already sent on a stale connection."""

    due: float
    request: bytes
    done: bool = False
    retried: bool = False


class OpenLoop:
    """Offers a load to one server.

    ```python
    result = asyncio.run(OpenLoop(form, port=8000).offer(schedule(50, 10), seconds=10))
    ```
    """

    def __init__(
        self,
        form: Form | Sequence[Form],
        *,
        port: int,
        timeout: float = TIMEOUT,
        connections: int = 512,
        read: Callable[[int, bytes], None] | None = None,
    ) -> None:
        """Requests rotate over the bodies of all forms; `read` is given the status and body of every answer."""
        forms = (form,) if isinstance(form, Form) else form
        self._port = port
        self._timeout = timeout
        self._connections = connections
        self._requests = [encode_request(one, index) for one in forms for index in range(len(one.bodies))]
        self._read = read
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[Ticket] = deque()
        self._unfinished: deque[Ticket] = deque()
        self._outcomes: Counter[str] = Counter()
        self._latencies: list[float] = []
        self._late: list[float] = []

    async def offer(
        self, due: Sequence[float], *, seconds: float, after: Callable[[], Awaitable[None]] | None = None
    ) -> LoadResult:
        """Send one request at each moment of `due`; the result once all have ended, by an answer or by the timeout.

        after: awaited as soon as the last request has left, while earlier ones may still be on their way.
        """
        cpu, begin = time.process_time(), time.perf_counter()
        sweeper = asyncio.create_task(self._sweep())
        try:
            for index, offset in enumerate(due):
                delay = begin + offset - time.perf_counter()
                if delay > 0:
                    await asyncio.sleep(delay)
                elif index % 16 == 0:
                    # Behind schedule: answers must be read all the same.
                    await asyncio.sleep(0)
                ticket = Ticket(begin + offset, self._requests[index % len(self._requests)])
                self._unfinished.append(ticket)
                self._send(ticket)
            await asyncio.sleep(max(begin + seconds - time.perf_counter(), 0))
            used = (time.process_time() - cpu) / (time.perf_counter() - begin)
            if after:
                await after()
            while self._unfinished:
                await asyncio.sleep(SWEEP_SECONDS)
        finally:
            sweeper.cancel()
            for task in self._opening:
                task.cancel()
            for connection in list(self._open):
                connection.abort()
            while self._open:
                await asyncio.sleep(0)
        return LoadResult(
            offered=len(due) / seconds,
            seconds=seconds,
            outcomes=dict(sorted(self._outcomes.items())),
            latencies=tuple(sorted(self._latencies)),
            late_p99_ms=percentile(self._late, 99),
            client_cpu=used,
        )

    def _send(self, ticket: Ticket) -> None:
        if self._idle:
            # The most recently used one: the others may reach the server's keep-alive limit, and then close.
            self._put(self._idle.pop(), ticket)
        else:
            self._waiting.append(ticket)
            if len(self._open) + len(self._opening) < self._connections:
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
        if ticket is None or ticket.done:
            return
        if stale and not ticket.retried:
            ticket.retried = True
            self._send(ticket)
        else:
            self.ended(ticket, "broken")

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

    def __init__(self, client: OpenLoop) -> None:
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
        self._transport.write(ticket.request)

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


def encode_request(form: Form, index: int) -> bytes:
    """The bytes of a keep-alive POST of one body."""
    body = form.bodies[index]
    return (
        f"POST {form.path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {form.content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body

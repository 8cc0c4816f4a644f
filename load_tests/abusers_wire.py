"""Abusers of connections and of HTTP itself: what they send is made here from its description."""

from __future__ import annotations

import itertools
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx

from oodguard.load_tests.abusers import ADDRESS, Over, Target, abuser

CHUNKED = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
PROBE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
BLOCK = 64 * 1024
# What one connection of an abuser sends at most: enough to see a limit that is missing.
MOST = 100_000_000


def _send(connection: socket.socket, block: bytes, over: Over, *, most: int = MOST) -> None:
    """Send a block again and again, reading nothing."""
    for _ in range(most // len(block)):
        if over.is_set():
            return
        connection.sendall(block)


@abuser("sends header lines without end behind a body in chunks")
def trailers(target: Target, over: Over) -> None:
    """Trailer fields, 100 MB on a connection that is then held."""
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 40) for number in range(1000))
    with target.connect() as connection:
        connection.sendall(CHUNKED % (b"/predict", b"image/png") + b"1\r\na\r\n0\r\n")
        _send(connection, lines, over)
        over.wait(60)


@abuser("goes on sending a body after its request was refused")
def refused_body(target: Target, over: Over) -> None:
    """A body of a type that the server refuses at once, in large chunks."""
    with target.connect() as connection:
        connection.sendall(CHUNKED % (b"/predict", b"text/plain"))
        _send(connection, b"%x\r\n%s\r\n" % (BLOCK, bytes(BLOCK)), over)


@abuser("goes on sending a refused body, one byte in a chunk, on eight connections")
def refused_bytes(target: Target, over: Over) -> None:
    """A refused body in the smallest chunks that there are."""

    def one() -> None:
        with target.connect() as connection:
            connection.sendall(CHUNKED % (b"/predict", b"text/plain"))
            _send(connection, b"1\r\na\r\n" * 10_000, over)

    _each(over, 8, one)


@abuser("sends a body one byte in a chunk, on eight connections")
def tiny_chunks(target: Target, over: Over) -> None:
    """A body that the server reads, in the smallest chunks that there are."""

    def one() -> None:
        with target.connect() as connection:
            connection.sendall(CHUNKED % (b"/predict", b"image/png"))
            _send(connection, b"1\r\na\r\n" * 10_000, over)

    _each(over, 8, one)


@abuser("sends requests and reads no answer, on thirty connections")
def unread(target: Target, over: Over) -> None:
    """Pipelined requests: their answers fill what the kernel keeps, then what the server keeps."""
    with ExitStack() as stack:
        connections = [stack.enter_context(target.connect()) for _ in range(30)]
        for connection in connections:
            connection.setblocking(False)
        while not over.is_set():
            writable = select.select([], connections, [], 0.2)[1]
            for connection in writable:
                connection.send(PROBE * 1000)


@abuser("sends photos in pipelined requests and reads no answer")
def unread_photos(target: Target, over: Over) -> None:
    """Pipelined photos on thirty connections, which are all read ahead where nothing bounds that."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    photos = (head % len(target.photo) + target.photo) * 16
    left: dict[socket.socket, bytes] = {}
    with ExitStack() as stack:
        connections = [stack.enter_context(target.connect()) for _ in range(30)]
        for connection in connections:
            connection.setblocking(False)
        while not over.is_set():
            for connection in select.select([], connections, [], 0.2)[1]:
                rest = left.get(connection) or photos
                left[connection] = rest[connection.send(rest) :]


@abuser("opens TLS connections and never shakes hands", "--max-connections", "64", tls=True)
def handshakes(target: Target, over: Over) -> None:
    """Connections that are accepted and then say nothing."""
    with ExitStack() as stack:
        for _ in itertools.count():
            if over.is_set():
                return
            try:
                stack.enter_context(target.connect(handshake=False, timeout=1.0))
            except OSError:
                return
            over.wait(0.005)


@abuser("sends 32 photos in a request, on eight connections")
def hog(target: Target, over: Over) -> None:
    """Requests that are all as they should be, and many."""
    files = [("image", (f"{number}.jpg", target.photo, "image/jpeg")) for number in range(32)]
    url = f"{'https' if target.tls else 'http'}://{target.host}:{target.port}/predict"

    def one() -> None:
        transport = httpx.HTTPTransport(local_address=ADDRESS, verify=False)
        with httpx.Client(transport=transport, timeout=60) as client:
            while not over.is_set():
                try:
                    if client.post(url, files=files).status_code == 429:
                        over.wait(0.02)
                except httpx.TransportError:
                    over.wait(0.02)

    _each(over, 8, one)


def _each(over: Over, count: int, one: object) -> None:
    """Run a function on several threads, each again and again until it is over."""

    def again() -> None:
        while not over.is_set():
            try:
                one()  # type: ignore[operator]
            except OSError:
                over.wait(0.01)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(again) for _ in range(count)]:
            future.result()

"""Abusers of connections and of HTTP itself: what they send is made here from its description."""

from __future__ import annotations

import itertools
import select
import socket
from contextlib import ExitStack

import httpx

from oodguard.load_tests.abusers import ADDRESS, Over, Target, abuser, each

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

    each(over, 8, one)


@abuser("sends a body one byte in a chunk, on eight connections")
def tiny_chunks(target: Target, over: Over) -> None:
    """A body that the server reads, in the smallest chunks that there are."""

    def one() -> None:
        with target.connect() as connection:
            connection.sendall(CHUNKED % (b"/predict", b"image/png"))
            _send(connection, b"1\r\na\r\n" * 10_000, over)

    each(over, 8, one)


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

    def one() -> None:
        transport = httpx.HTTPTransport(local_address=ADDRESS, verify=False)
        with httpx.Client(transport=transport, timeout=60) as client:
            while not over.is_set():
                try:
                    if client.post(f"{target.url}/predict", files=files).status_code == 429:
                        over.wait(0.02)
                except httpx.TransportError:
                    over.wait(0.02)

    each(over, 8, one)


@abuser("sends lines that are no HTTP, and asks for other protocols, on new connections")
def malformed(target: Target, over: Over) -> None:
    """Each is refused; a log line for each would fill the disk."""
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    for wrong in (b"no line of HTTP\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", upgrade, PROBE + b"GET\0/ HTTP/1.1\r\n\r\n"):
        with target.connect() as connection:
            connection.sendall(wrong)
            while connection.recv(BLOCK):
                if over.is_set():
                    return


@abuser("begins requests and never ends their heads, on as many connections as there may be", "--max-connections", "64")
def slow_heads(target: Target, over: Over) -> None:
    """A byte a second on each connection."""
    with ExitStack() as stack:
        connections = [stack.enter_context(target.connect()) for _ in range(48)]
        for connection in connections:
            connection.sendall(b"POST /predict HTTP/1.1\r\nX-Slow: ")
        while not over.wait(1.0):
            for connection in connections:
                connection.sendall(b"a")


@abuser("begins bodies of 60 MB and never ends them, on eight connections")
def held_bodies(target: Target, over: Over) -> None:
    """Bodies wait for their last byte: together they fill what all bodies may take."""
    size = 60_000_000
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

    def one() -> None:
        with target.connect() as connection:
            connection.sendall(head % (b"multipart/form-data; boundary=b", size) + part)
            for _ in range(3):
                _send(connection, bytes(BLOCK), over, most=18_000_000)
            while connection.recv(BLOCK) and not over.is_set():
                pass

    each(over, 8, one)


@abuser("calls with keys that are none, on eight connections", keyed=True)
def wrong_keys(target: Target, over: Over) -> None:
    """Guesses, each with a photo."""
    head = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nX-API-Key: %d\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    )
    numbers = itertools.count()

    def one() -> None:
        with target.connect() as connection:
            while not over.is_set():
                connection.sendall(head % (next(numbers), len(target.photo)) + target.photo)
                if not connection.recv(BLOCK):
                    return

    each(over, 8, one)


@abuser("has a web page post to the private port, on four connections")
def web_page(target: Target, over: Over) -> None:
    """What a browser on the operator's machine sends for a page of another origin: reloads, as often as they fit."""
    url = f"http://{target.host}:{target.private}/admin/reload"

    def one() -> None:
        transport = httpx.HTTPTransport(local_address=ADDRESS)
        with httpx.Client(transport=transport, headers={"Origin": "https://page.example"}, timeout=30) as client:
            while not over.is_set():
                client.post(url)

    each(over, 4, one)

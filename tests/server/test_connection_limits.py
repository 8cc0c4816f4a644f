"""What one connection may cost: trailer fields, refused bodies, chunks, requests ahead, answers that nobody takes."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from oodguard.core.codes import Code
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.process import HOST, wait_until
from oodguard.server.errors import RequestError
from oodguard.server.framing import Framing
from tests.server.test_protocol import answers, head

CHUNKED = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n%s\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n%s\r\n"


def chunked(body: bytes, *, size: int = 1000) -> bytes:
    parts = [body[place : place + size] for place in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n"


@pytest.fixture(scope="module")
def small(bundle: Any) -> Iterator[Gateway]:
    """A server with small limits, for tests that leave it as it is."""
    with Gateway(bundle, "--max-header-bytes", "2048", "--body-timeout", "2", "--log-level", "info") as running:
        yield running


def connect(running: Gateway) -> socket.socket:
    return socket.create_connection((HOST, running.port), timeout=10)


def all_of(connection: socket.socket) -> bytes:
    """Everything until the server ends the connection, by a goodbye or by a reset."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


def taken(connection: socket.socket, block: bytes, *, most: int) -> int:
    """How many bytes the server takes before it ends the connection, or lets them stay with their sender."""
    sent = 0
    connection.settimeout(0.5)
    try:
        while sent < most:
            sent += connection.send(block)
    except OSError:
        pass
    return sent


def test_trailer_fields_are_read_and_dropped(small: Gateway, golden: list[bytes]) -> None:
    trailer = b"x-request-id: from-the-trailer\r\nx-request-timeout-ms: 11\r\nx-api-key: k\r\n\r\n"
    request = CHUNKED % (b"/predict", b"image/jpeg", b"X-Request-Id: from-the-head\r\n") + chunked(golden[0]) + trailer
    with connect(small) as connection:
        for _ in range(2):
            connection.sendall(request)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"x-request-id: from-the-head\r\n" in answer
    assert "from-the-trailer" not in small.output()


@pytest.mark.parametrize("piece", [50, 3000], ids=["small pieces", "at once"])
def test_trailer_fields_are_bounded_as_a_head_is(small: Gateway, golden: list[bytes], piece: int) -> None:
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 20) for number in range(100))
    assert len(lines) > 2048
    with connect(small) as connection:
        connection.sendall(CHUNKED % (b"/predict", b"image/jpeg", b"") + chunked(golden[0]))
        for place in range(0, len(lines), piece):
            connection.sendall(lines[place : place + piece])
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "header_too_large"


def test_trailer_fields_that_never_end_are_cut_off_by_the_time_of_the_body(small: Gateway) -> None:
    with connect(small) as connection:
        connection.sendall(CHUNKED % (b"/predict", b"image/jpeg", b"") + chunked(b"abc") + b"x-slow: ")
        began = time.monotonic()
        assert all_of(connection).startswith(b"HTTP/1.1 408 ")
        assert 1.5 < time.monotonic() - began < 8


def test_chunks_smaller_than_their_frames_are_refused(small: Gateway) -> None:
    with connect(small) as connection:
        connection.sendall(CHUNKED % (b"/predict", b"image/jpeg", b"") + b"1\r\na\r\n" * 1500)
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"chunks that are smaller" in answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (CHUNKED % (b"/predict", b"text/plain", b""), b"415"),
        (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 9000000\r\n\r\n", b"415"),
        (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n", b"404"),
        (b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n", b"200"),
    ],
    ids=["chunks", "length", "no route", "no body wanted"],
)
def test_a_body_that_nobody_reads_ends_its_connection(small: Gateway, request_: bytes, status: bytes) -> None:
    with connect(small) as connection:
        connection.sendall(request_)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"connection: close\r\n" in answer.lower()
        block = b"1000\r\n" + bytes(4096) + b"\r\n"
        # What the buffers of both kernels hold is not the server's; it took 64 KiB of 100 MB.
        assert taken(connection, block, most=100_000_000) < 20_000_000


def test_a_small_body_that_nobody_reads_costs_no_connection(small: Gateway, golden: list[bytes]) -> None:
    refused = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 5000\r\n\r\n"
    with connect(small) as connection:
        connection.sendall(refused)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 415 ")
        assert b"connection: close" not in answer.lower()
        connection.sendall(b"a" * 5000 + LIVE % b"")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_valid_request_is_answered_before_a_malformed_one_behind_it(small: Gateway, golden: list[bytes]) -> None:
    for valid in (
        head(b"/predict", len(golden[0])) + golden[0],
        CHUNKED % (b"/predict", b"image/jpeg", b"") + chunked(golden[0]) + b"\r\n",
    ):
        found = answers(small, valid + b"this is no request\r\n\r\n", count=2)
        assert [status for status, _ in found] == [200, 400]
        assert found[1][1]["code"] == "bad_request"


def test_requests_behind_one_another_are_answered_in_order(small: Gateway, golden: list[bytes]) -> None:
    photo, kinds = head(b"/predict", len(golden[0])) + golden[0], LIVE % b""
    stream = b"".join([photo, kinds, b"\r\n", kinds, photo] * 5)
    for step in (len(stream), 700):
        pieces = [stream[place : place + step] for place in range(0, len(stream), step)]
        found = answers(small, *pieces, count=20)
        assert {status for status, _ in found} == {200}
        assert ["predictions" in document for _, document in found] == [True, False, False, True] * 5


def test_requests_ahead_stay_with_their_sender_and_unread_answers_end_the_connection(server: Any) -> None:
    running = server("--write-timeout", "1")
    with connect(running) as connection:
        # No answer is read: the server stops reading, too, and then ends it.
        sent = taken(connection, LIVE % b"" * 100, most=50_000_000)
        assert sent < 30_000_000
        wait_until(lambda: "was not taken in time" in running.output(), 10)
    line = next(line for line in running.output().splitlines() if "was not taken" in line)
    document = json.loads(line)
    assert (document["address"], len(document["request_id"])) == (HOST, 32)


def test_unread_answers_do_not_hold_up_the_end(server: Any) -> None:
    running = server("--write-timeout", "2", "--drain-timeout", "30")
    with connect(running) as connection:
        taken(connection, LIVE % b"" * 100, most=50_000_000)
        began = time.monotonic()
        assert running.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "lines",
    [b"", b"Host: a\r\nHost: a\r\n", b"Host: a\r\nHost: b\r\n", b"Host: a b\r\n", b"Host: a/b\r\n", b"Host: a@b\r\n"],
)
def test_a_request_names_one_host(small: Gateway, lines: bytes) -> None:
    ((status, document),) = answers(small, b"GET /health/live HTTP/1.1\r\n" + lines + b"\r\n")
    assert (status, document["code"]) == (400, "bad_request")
    assert "Host" in document["detail"]


@pytest.mark.parametrize("host", [b"x", b"127.0.0.1:80", b"[::1]:8000", b"", b"guard_1.example:80"])
def test_hosts_as_clients_write_them(small: Gateway, host: bytes) -> None:
    ((status, _),) = answers(small, b"GET /health/live HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert status == 200


def test_http_1_0_needs_no_host(small: Gateway) -> None:
    with connect(small) as connection:
        connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert all_of(connection).startswith(b"HTTP/1.1 200 ")


def test_refusals_below_http_are_counted_and_few_are_logged(server: Any) -> None:
    running = server()
    for _ in range(30):
        ((status, _),) = answers(running, b"this is no request\r\n\r\n")
        assert status == 400
    assert running.sample('oodguard_rejected_total{code="bad_request"}') == 30
    lines = [json.loads(line) for line in running.output().splitlines() if "not valid HTTP" in line]
    assert len(lines) == 10
    assert {line["address"] for line in lines} == {HOST}
    assert len({line["request_id"] for line in lines}) == 10


def steps(framing: Framing, stream: bytes, step: int) -> list[bytes]:
    """What the parser would be given, when the stream arrives in pieces of `step` bytes."""
    found = []
    for start in range(0, len(stream), step):
        piece, place = stream[start : start + step], 0
        while place < len(piece):
            end = framing.end(piece, place)
            assert end > place
            found.append(piece[place:end])
            place = end
    return found


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 1000])
def test_a_head_ends_at_its_empty_line(step: int) -> None:
    framing = Framing(100)
    given = b"".join(steps(framing, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", step))
    assert given == b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert framing.in_head
    framing.body([(b"content-length", b"5")])
    assert framing.ends_within(5)
    assert not framing.ends_within(4)
    assert framing.end(b"helloGET", 0) == 5


def test_a_head_is_bounded_to_the_byte() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert Framing(len(request)).end(request + b"more", 0) == len(request)
    with pytest.raises(RequestError) as caught:
        Framing(len(request) - 1).end(request, 0)
    assert caught.value.code is Code.HEADER_TOO_LARGE


@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000])
def test_chunks_are_bounded_by_what_they_hold(step: int) -> None:
    framing = Framing(20)
    framing.body([(b"transfer-encoding", b"chunked")])
    steps(framing, b"a;name=value\r\n0123456789\r\n" + b"4\r\nabcd\r\n" * 4, step)
    with pytest.raises(RequestError, match="smaller than what frames them"):
        steps(framing, b"1\r\na\r\n" * 20, step)


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_a_trailer_is_bounded_and_its_lines_are_fed_one_by_one(step: int) -> None:
    framing = Framing(40)
    framing.body([(b"transfer-encoding", b"chunked")])
    stream = b"3\r\nabc\r\n0\r\na: b\r\nc: d\r\n\r\n"
    assert b"".join(steps(framing, stream, step)) == stream
    with pytest.raises(RequestError, match="trailer fields"):
        steps(framing, b"e: " + b"f" * 40, step)


def test_tls_connections_count_when_they_are_accepted(server: Any, certificate: tuple[Any, Any]) -> None:
    cert, key = map(str, certificate)
    flags = ("--tls-cert", cert, "--tls-key", key, "--max-connections", "4", "--header-timeout", "2")
    running = server(*flags)
    before = running.descriptors()
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(running)) for _ in range(40)]
        wait_until(lambda: running.descriptors() > before, 5)
        time.sleep(0.3)
        # Four, and eight that would be told that they are too many.
        assert running.descriptors() - before <= 12 + 2
        began = time.monotonic()
        for one in silent:
            one.settimeout(10)
            assert all_of(one) == b""
        assert time.monotonic() - began < 4


def test_handshake_and_head_share_their_time(server: Any, certificate: tuple[Any, Any]) -> None:
    cert, key = map(str, certificate)
    running = server("--tls-cert", cert, "--tls-key", key, "--header-timeout", "3")
    context = ssl.create_default_context(cafile=cert)
    with connect(running) as plain:
        began = time.monotonic()
        time.sleep(2)
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            assert all_of(connection).startswith(b"HTTP/1.1 408 ")
            assert 2.5 < time.monotonic() - began < 4.5


def test_a_tls_caller_who_says_no_goodbye_is_gone_in_time(server: Any, certificate: tuple[Any, Any]) -> None:
    cert, key = map(str, certificate)
    running = server("--tls-cert", cert, "--tls-key", key, "--write-timeout", "1")
    context = ssl.create_default_context(cafile=cert)
    with context.wrap_socket(connect(running), server_hostname="localhost") as connection:
        # The answer ends the connection, but this caller neither reads nor says goodbye.
        before = running.descriptors()
        connection.sendall(LIVE % b"Connection: close\r\n")
        wait_until(lambda: running.descriptors() < before, 6)

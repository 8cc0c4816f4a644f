"""Raw bytes to a real server: what clients other than ours write on a connection."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from oodguard.load_tests.gateway import Gateway

# As curl 7.88 writes it for --http2 over plain HTTP.
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
WEBSOCKET = b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"


def head(path: bytes, length: int, more: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (
        path,
        more,
        length,
    )


def answers(serving: Gateway, *pieces: bytes, count: int = 1) -> list[tuple[int, Any]]:
    """The statuses and documents of `count` answers on one connection, on which these pieces were written."""
    found = []
    with socket.create_connection(("127.0.0.1", serving.port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        reader = connection.makefile("rb")
        for _ in range(count):
            status = int(reader.readline().split()[1])
            length = 0
            while (line := reader.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            found.append((status, json.loads(reader.read(length))))
    return found


@pytest.mark.parametrize("offer", [OFFER, WEBSOCKET, OFFER.replace(b"U", b"u")], ids=["h2c", "websocket", "lower"])
@pytest.mark.parametrize("split", [0, 1, 40, 200])
def test_an_offer_of_another_protocol_costs_no_body(
    serving: Gateway, golden: list[bytes], offer: bytes, split: int
) -> None:
    plain = answers(serving, head(b"/predict", len(golden[0])) + golden[0])
    request = head(b"/predict", len(golden[0]), offer) + golden[0]
    (status, document), (second, again) = answers(serving, request[:split], request[split:], request, count=2)
    assert (status, second) == (200, 200)
    for one in (document, again):
        assert one["predictions"][0]["label"] == plain[0][1]["predictions"][0]["label"]


def test_an_offer_in_a_chunked_request_and_behind_another_request(serving: Gateway, golden: list[bytes]) -> None:
    chunked = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\n%sContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n" % OFFER
    )
    chunked += b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (golden[0][:100], golden[0][100:]))
    plain = head(b"/predict", len(golden[1])) + golden[1]
    found = answers(serving, plain + chunked + b"0\r\n\r\n" + plain, count=3)
    assert [status for status, _ in found] == [200, 200, 200]
    labels = [document["predictions"][0]["label"] for _, document in found]
    assert labels[0] == labels[2]


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", "CONNECT is for proxies"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not valid HTTP/1.1"),
    ],
)
def test_what_this_server_does_not_speak_is_one_clear_refusal(serving: Gateway, request_: bytes, word: str) -> None:
    ((status, document),) = answers(serving, request_)
    assert (status, document["code"]) == (400, "bad_request")
    assert word in document["detail"]


def test_no_offer_writes_to_the_log(serving: Gateway, golden: list[bytes]) -> None:
    answers(serving, head(b"/predict", len(golden[0]), OFFER) + golden[0])
    assert "upgrade" not in serving.output().lower()


def test_the_head_of_an_offer_is_bounded_like_any_other(server: Any) -> None:
    running = server("--max-header-bytes", "2048")
    long = OFFER + b"X-Long: " + b"a" * 4000 + b"\r\n"
    ((status, document),) = answers(running, b"POST /predict HTTP/1.1\r\nHost: x\r\n" + long)
    assert (status, document["code"]) == (431, "header_too_large")

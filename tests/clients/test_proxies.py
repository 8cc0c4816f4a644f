"""What the clients make of answers that proxies give by themselves; the bytes are those that the proxies write."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from oodguard.clients import AsyncClient, Client, Retries
from oodguard.clients.errors import ServerProblem, ServerUnreachable

ONCE = Retries(attempts=1)
PHOTO = b"\xff\xd8" + bytes(2_099_998)


def page(status: str, server: str | None, body: str, kind: str = "text/html", more: str = "") -> bytes:
    named = f"Server: {server}\r\n" if server else ""
    head = f"HTTP/1.1 {status}\r\n{named}Content-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


def nginx(status: str, more: str = "") -> bytes:
    text = f"<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{status}</h1></center>\r\n<hr>"
    return page(status, "nginx/1.22.1", f"{text}<center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n", more=more)


@pytest.fixture
def proxy() -> Iterator[Callable[[bytes], str]]:
    """Start a server that reads requests whole and answers with these bytes; its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    answer = b""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as reader:
                length = 0
                while (line := reader.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                reader.read(length)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()

    def begin(given: bytes) -> str:
        nonlocal answer
        answer = given
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield begin
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


ANSWERS = {
    "nginx 502": (nginx("502 Bad Gateway"), r"\(nginx/1.22.1\) got no answer from the server \(502\)"),
    "nginx 504": (nginx("504 Gateway Time-out"), r"waited for the server in vain \(504\); raise its timeout"),
    "nginx 403": (nginx("403 Forbidden"), r"refused 2.1 MB with 403; check its access rules"),
    "nginx wants tls": (nginx("400 Bad Request"), r"refused 2.1 MB with 400; use https://"),
    "nginx limit_req": (nginx("429 Too Many Requests"), r"fewer requests than came \(429\)"),
    "haproxy 503": (
        page("503 Service Unavailable", None, "<html><body><h1>503 Service Unavailable</h1>\n</body></html>\n"),
        r"the proxy in front of http://127.0.0.1:\d+ has no server to ask \(503\)",
    ),
    "haproxy 408": (page("408 Request Time-out", None, "<html></html>"), r"got 2.1 MB too slowly \(408\)"),
    "envoy 503": (
        page("503 Service Unavailable", "envoy", "no healthy upstream", "text/plain"),
        r"\(envoy\) has no server to ask \(503\)",
    ),
    "kong 401": (
        page("401 Unauthorized", "kong/3.4", '{"message":"No API key found in request"}', "application/json"),
        r"\(kong/3.4\) wants credentials of its own \(401\)",
    ),
    "basic auth": (nginx("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"\r\n'), r"credentials of its own"),
    "nginx 301": (
        nginx("301 Moved Permanently", "Location: https://guard.example/predict\r\n"),
        r"sends clients to https://guard.example/predict \(301\); use that address",
    ),
    "nginx 404": (nginx("404 Not Found"), r"is not an oodguard server \(404\); check the address"),
    "another site": (page("200 OK", "x", "<html>"), r"is not an oodguard server \(200\); check the address"),
}


@pytest.mark.parametrize(("answer", "sentence"), ANSWERS.values(), ids=ANSWERS)
def test_a_proxys_own_answer_is_explained(proxy: Callable[[bytes], str], answer: bytes, sentence: str) -> None:
    with (
        Client(proxy(answer), retries=ONCE) as client,
        pytest.raises(ServerUnreachable, match=sentence) as caught,
    ):
        client.predict([PHOTO])
    assert "<html>" not in str(caught.value)


TOO_LARGE = {
    "nginx": nginx("413 Request Entity Too Large"),
    "envoy": page("413 Payload Too Large", "envoy", "Payload Too Large", "text/plain"),
    "kong": page("413 Payload Too Large", "kong/3.4", '{"message":"Request size limit exceeded"}', "application/json"),
}


@pytest.mark.parametrize("answer", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_proxys_body_limit_is_this_requests_problem(proxy: Callable[[bytes], str], answer: bytes) -> None:
    url = proxy(answer)
    with Client(url) as client:
        with pytest.raises(ServerProblem, match=r"refused 2.1 MB with 413; raise its body limit") as caught:
            client.predict([PHOTO])
        assert (caught.value.problem.status, caught.value.problem.code) == (413, "body_too_large")
        # One photo too many for the proxy does not end a stream.
        results = list(client.stream([PHOTO, PHOTO[:500]], concurrency=1))
    details = [result.problem.detail for result in results if result.problem]
    assert [words in detail for words, detail in zip(("2.1 MB", "500 bytes"), details, strict=True)] == [True, True]

    async def ask() -> None:
        async with AsyncClient(url) as client:
            await client.predict([PHOTO])

    with pytest.raises(ServerProblem, match="raise its body limit"):
        asyncio.run(ask())

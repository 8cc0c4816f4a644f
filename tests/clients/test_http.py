from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from oodguard.clients import Client
from oodguard.clients.errors import ServerProblem, ServerUnreachable
from oodguard.core.errors import InputError


@pytest.fixture
def stranger() -> Iterator[str]:
    """A web server that is not oodguard."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            status = 422 if "problem" in self.path else 200
            body = b'{"title": "T", "status": 422, "code": "c", "detail": "why"}' if status == 422 else b"<html>"
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_server_is_not_mistaken_for_ours(stranger: str) -> None:
    with Client(stranger) as client, pytest.raises(ServerUnreachable, match="not an oodguard server"):
        client.predict([b"x"])


def test_problems_are_typed(stranger: str) -> None:
    with Client(stranger + "/problem") as client, pytest.raises(ServerProblem, match=r"T \(422\): why") as caught:
        client.predict([b"x"])
    assert caught.value.problem.code == "c"


def test_nothing_listening_and_no_file(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(ServerUnreachable, match="cannot be reached"):
            client.predict([b"x"])
        with pytest.raises(InputError, match="cannot be read"):
            client.predict([tmp_path / "absent.jpg"])
    with Client("nonsense://x") as client, pytest.raises(ServerUnreachable):
        client.predict([b"x"])

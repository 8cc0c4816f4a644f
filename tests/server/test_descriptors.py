"""Open files: callers who hold every connection that the process may have leave the private port alone."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.process import HOST, wait_until
from oodguard.server.descriptors import OTHER_FILES, PRIVATE_CONNECTIONS, fitting, opened
from oodguard.server.settings import ServeSettings

ASK = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
Limited = Callable[..., Gateway]


@pytest.fixture
def limited(bundle: Path) -> Iterator[Limited]:
    """Start a server under a soft and a hard limit of open files."""
    running: list[Gateway] = []

    def begin(soft: int, hard: int, *flags: str) -> Gateway:
        gateway = Gateway(bundle, *flags)
        gateway._command = ["prlimit", f"--nofile={soft}:{hard}", *gateway._command]
        running.append(gateway.start())
        return gateway

    yield begin
    for one in running:
        one.stop()


@contextlib.contextmanager
def held(port: int, count: int, *, ask: bool) -> Iterator[Counter[str]]:
    """Hold so many connections; with `ask` each has asked once, and the statuses are counted."""
    with contextlib.ExitStack() as stack:
        statuses: Counter[str] = Counter()
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((HOST, port), timeout=10))
            if ask:
                connection.sendall(ASK)
                statuses[connection.recv(4096).split(b" ")[1].decode()] += 1
        yield statuses


def test_a_soft_limit_is_raised_to_the_hard_one(limited: Limited) -> None:
    running = limited(200, 2000, "--max-connections", "400")
    with held(running.port, 400, ask=True) as statuses:
        assert statuses == {"200": 400}
    assert "--max-connections is" not in running.output()
    assert running.sample('oodguard_limit{setting="max_connections"}') == 400


def test_max_connections_is_lowered_to_what_fits_and_the_private_port_answers(limited: Limited) -> None:
    running = limited(400, 400)
    fits = round(running.sample('oodguard_limit{setting="max_connections"}'))
    assert 100 < fits < 400 - PRIVATE_CONNECTIONS - OTHER_FILES
    assert f"--max-connections is {fits} instead of 1024, because this process may open 400 files" in running.output()
    with held(running.port, 450, ask=True) as statuses:
        assert statuses == {"200": fits, "429": 450 - fits}
        for _ in range(20):
            assert httpx.get(f"{running.private}/health/live", timeout=2).status_code == 200
    assert "Traceback" not in running.output()


def test_callers_who_never_shake_hands_do_not_take_the_private_port(limited: Limited, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    running = limited(400, 400, "--tls-cert", str(cert), "--tls-key", str(key), "--header-timeout", "2")
    with held(running.port, 600, ask=False):
        for _ in range(20):
            assert httpx.get(f"{running.private}/health/live", timeout=2).status_code == 200
        # They are cut off as slow request heads are, and others get their turn.
        wait_until(lambda: _ready(running), 10)


def _ready(running: Gateway) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{running.url}/health/ready", verify=False, timeout=2).status_code == 200
    return False


def test_what_fits_follows_from_what_is_open() -> None:
    settings = ServeSettings(bundle=Path("b"), max_connections=1000)
    assert fitting(settings, limit=2000) is settings
    assert fitting(settings, limit=resource.RLIM_INFINITY) is settings
    rest = opened() + PRIVATE_CONNECTIONS + OTHER_FILES
    assert fitting(settings, limit=500 + rest).max_connections == 500
    assert fitting(settings, limit=10).max_connections == 1

"""Hosts, ports, IPv6 and Unix sockets: taken, written and reached."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from oodguard.clients import AsyncClient, Client
from oodguard.core.errors import EnvironmentProblem
from oodguard.server.addresses import is_local, listen, port_of, written


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://localhost:80"),
        ("0.0.0.0", "http://localhost:80"),
        ("::", "http://localhost:80"),
        ("::1", "http://[::1]:80"),
        ("[::1]", "http://[::1]:80"),
        ("fd00::5%eth0", "http://[fd00::5%eth0]:80"),
        ("10.0.0.5", "http://10.0.0.5:80"),
        ("guard.example", "http://guard.example:80"),
        ("unix:/run/og.sock", "unix:/run/og.sock"),
    ],
)
def test_an_address_is_written_as_one_pastes_it(host: str, url: str) -> None:
    assert written(host, 80, scheme="http") == url


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("[::1]", True), ("unix:og.sock", True), ("[::]", False), ("a", False)],
)
def test_what_only_this_machine_reaches(host: str, local: bool) -> None:
    assert is_local(host) is local


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize("host", [pytest.param("::1", marks=IPV6), pytest.param("[::1]", marks=IPV6), "127.0.0.1"])
def test_a_port_is_taken_with_and_without_brackets(host: str) -> None:
    with listen(host, 0) as listening:
        assert port_of(listening) > 0
        listening.listen()
        taken = rf"cannot listen on .* port {port_of(listening)}: Address already in use; choose another with --port"
        with pytest.raises(EnvironmentProblem, match=taken):
            listen(host, port_of(listening))
    with pytest.raises(EnvironmentProblem, match="choose another with --admin-host"):
        listen("192.0.2.1", 0, flags=("--admin-host", "--admin-port"))


def test_a_socket_that_nobody_listens_on_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "og.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.is_socket()
    with listen(f"unix:{path}", 0) as listening:
        assert port_of(listening) == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        with pytest.raises(EnvironmentProblem, match=r"cannot listen on unix:.*in use; choose another with --host"):
            listen(f"unix:{path}", 0)
        assert path.is_socket()
    assert not path.exists()


def test_a_server_leaves_alone_what_is_not_its_socket(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"kept")
    with pytest.raises(EnvironmentProblem, match="cannot listen on unix:"):
        listen(f"unix:{file}", 0)
    assert file.read_bytes() == b"kept"
    path = tmp_path / "og.sock"
    first = listen(f"unix:{path}", 0)
    path.rename(tmp_path / "old.sock")
    with listen(f"unix:{path}", 0):
        first.close()
        assert path.is_socket()
    with pytest.raises(EnvironmentProblem, match="too long"):
        listen(f"unix:{tmp_path / ('a' * 200)}", 0)


def test_a_unix_socket_is_served_and_both_clients_use_it(server: Any, golden: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "og.sock"
    running = server("--host", f"unix:{path}")
    assert running.url == f"unix:{path}"
    assert f"--unix-socket {path} http://localhost/predict" in running.output()
    with Client(running.url) as client:
        label = client.predict(golden[0]).predictions[0].label

    async def ask() -> str:
        async with AsyncClient(running.url) as client:
            return (await client.predict(golden[0])).predictions[0].label

    assert asyncio.run(ask()) == label
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as plain:
        assert plain.get("http://any.example/health/ready").status_code == 200
    assert running.stop() == 0
    assert not path.exists()


@IPV6
def test_ipv6_is_served_and_printed_with_brackets(server: Any, golden: list[bytes]) -> None:
    running = server("--host", "::1", "--admin-host", "::1")
    assert running.url.startswith("http://[::1]:")
    assert running.private.startswith("http://[::1]:")
    assert httpx.get(f"{running.private}/health/ready").status_code == 200
    with Client(running.url) as client:
        assert client.predict(golden[0]).predictions

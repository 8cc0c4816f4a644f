from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from oodguard.core.manifest import load_manifest
from oodguard.server.app import create_gateway
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.settings import ServeSettings


class Client(TestClient):
    """The public application; `private` is the private one, for reading metrics."""

    def __init__(self, settings: ServeSettings, engine: Any = None) -> None:
        gateway = create_gateway(settings, engine=engine)
        super().__init__(gateway.public, raise_server_exceptions=False)
        self.parts = gateway.parts
        self.private = TestClient(gateway.private, raise_server_exceptions=False)

    @contextmanager
    def held(self, engine: FakeEngine) -> Iterator[None]:
        """Every batch of the engine waits until the block ends."""
        gate = engine.gate = asyncio.Event()
        try:
            yield
        finally:
            engine.gate = None
            assert self.portal is not None
            self.portal.call(gate.set)

    def sample(self, name: str) -> float:
        """The value of one exported series."""
        for line in self.private.get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise AssertionError(f"{name} is not exported")


Start = Callable[..., Client]


@pytest.fixture
def start(bundle: Path) -> Iterator[Start]:
    """Start an application on the bundle; keyword arguments are settings."""
    opened: list[Client] = []

    def begin(*, engine: Any = None, settings_engine: Any = None, folder: Path = bundle, **settings: Any) -> Client:
        settings["engine"] = settings_engine
        client = Client(ServeSettings(bundle=folder, watch=False, **settings), engine)
        client.__enter__()
        opened.append(client)
        return client

    yield begin
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(start: Start) -> Client:
    """The real thing: ONNX Runtime on the exported graph."""
    return start()


@pytest.fixture
def fake(bundle: Path) -> FakeEngine:
    return FakeEngine(bundle, load_manifest(bundle))


@pytest.fixture
def golden(bundle: Path) -> list[bytes]:
    """The bundle's golden images, encoded."""
    return [(bundle / g.path).read_bytes() for g in load_manifest(bundle).golden]


class Server:
    """A real `oodguard serve` process on free ports."""

    def __init__(self, bundle: Path | None, *flags: str, ready: bool = True) -> None:
        command = [sys.executable, "-u", "-m", "oodguard.cli", "serve", *([str(bundle)] if bundle else [])]
        command += ["--port", "0", "--admin-port", "0"]
        # A wide console: the addresses must not be wrapped.
        self.process = subprocess.Popen(
            [*command, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"OODGUARD_SERVE_DRAIN_DELAY": "0", **os.environ, "COLUMNS": "300"},
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.search(r"serving on (\S+) .*metrics on (\S+)/metrics", line)
            if found:
                self.url, self.private = found.groups()
                break
        else:
            raise AssertionError(f"the server did not start: {self.stop() and self.log}")
        if ready:
            self.wait_ready()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/health/ready", verify=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the server is not ready")

    def sample(self, name: str) -> float:
        for line in httpx.get(f"{self.private}/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise AssertionError(f"{name} is not exported")

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        code = self.process.wait(60)
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


@pytest.fixture
def server(bundle: Path) -> Iterator[Callable[..., Server]]:
    """Start real server processes; flags are those of `oodguard serve`."""
    running: list[Server] = []

    def begin(*flags: str, folder: Path | None = bundle, ready: bool = True) -> Server:
        running.append(Server(folder, *flags, ready=ready))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture(scope="module")
def serving(bundle: Path) -> Iterator[Server]:
    """One real server for all tests of a module that leave it as it is."""
    server = Server(bundle)
    yield server
    server.stop()


def png(colour: str = "red", size: tuple[int, int] = (40, 40), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return png

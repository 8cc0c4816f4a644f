from __future__ import annotations

import asyncio
import io
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from oodguard.core.manifest import load_manifest
from oodguard.load_tests.gateway import Gateway
from oodguard.server.app import create_gateway
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.settings import ServeSettings
from tests.server.rpc_bench import run_trial


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
def trial(bundle: Path, fake: FakeEngine) -> Callable[..., None]:
    """Run a story against the gRPC port of a server with these settings."""
    return partial(run_trial, bundle, fake)


@pytest.fixture
def golden(bundle: Path) -> list[bytes]:
    """The bundle's golden images, encoded."""
    return [(bundle / g.path).read_bytes() for g in load_manifest(bundle).golden]


@pytest.fixture
def server(bundle: Path) -> Iterator[Callable[..., Gateway]]:
    """Start real server processes; flags are those of `oodguard serve`."""
    running: list[Gateway] = []

    def begin(*flags: str, folder: Path | None = bundle, ready: bool = True) -> Gateway:
        running.append(Gateway(folder, *flags).start(wait=ready))
        if not ready:
            running[-1].wait_ready(running[-1].is_listening)
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture(scope="module")
def serving(bundle: Path) -> Iterator[Gateway]:
    """One real server for all tests of a module that leave it as it is."""
    with Gateway(bundle) as running:
        yield running


def png(colour: str = "red", size: tuple[int, int] = (40, 40), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return png


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key

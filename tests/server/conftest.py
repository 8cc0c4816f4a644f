from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from oodguard.export.contract import load_manifest
from oodguard.server.app import create_app
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.settings import ServeSettings

Start = Callable[..., TestClient]


@pytest.fixture
def start(bundle: Path) -> Iterator[Start]:
    """Start an application on the bundle; keyword arguments are settings."""
    opened: list[TestClient] = []

    def begin(*, engine: Any = None, folder: Path = bundle, **settings: Any) -> TestClient:
        app = create_app(ServeSettings(bundle=folder, threads=1, **settings), engine=engine)
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        return client

    yield begin
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(start: Start) -> TestClient:
    """The real thing: ONNX Runtime on the exported graph."""
    return start()


@pytest.fixture
def fake(bundle: Path) -> FakeEngine:
    return FakeEngine(load_manifest(bundle))


@pytest.fixture
def golden(bundle: Path) -> list[bytes]:
    """The bundle's golden images, encoded."""
    return [(bundle / g.path).read_bytes() for g in load_manifest(bundle).golden]


def png(colour: str = "red", size: tuple[int, int] = (40, 40), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return png

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image

from oodguard.core.errors import ImageError
from oodguard.server.offline.items import Item
from oodguard.server.offline.reader import Reader
from oodguard.server.offline.sources import Source

MAX_BYTES = 100_000

Find = Callable[[str], list[Item]]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """The items of a source below the test's folder."""
    return lambda source: list(Source(source, base=tmp_path, max_bytes=MAX_BYTES))


@pytest.fixture
def read(tmp_path: Path) -> Iterable[Callable[[Item], bytes | str]]:
    """An item's bytes, or its error code."""
    reader = Reader(tmp_path, max_bytes=MAX_BYTES)

    def one(item: Item) -> bytes | str:
        try:
            return reader.read(item)
        except ImageError as error:
            return error.code

    yield one
    reader.close()


@pytest.fixture
def image() -> Callable[[int], bytes]:
    """A small PNG that differs from number to number."""

    def draw(number: int) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (24, 24), (number * 37 % 256, number * 11 % 256, number % 256)).save(stream, "PNG")
        return stream.getvalue()

    return draw


@pytest.fixture
def pack() -> Callable[..., bytes]:
    """A tar of names and contents; a TarInfo may stand for a name."""

    def build(members: dict[str | tarfile.TarInfo, bytes], *, form: int = tarfile.PAX_FORMAT, mode: str = "w") -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode, format=form) as archive:
            for name, data in members.items():
                info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return stream.getvalue()

    return build

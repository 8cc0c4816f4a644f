"""What a server and its shadow's process say to each other, over a pair of sockets: JSON heads, then raw images."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from oodguard.core.answers import ModelRef
from oodguard.core.frozen import Frozen
from oodguard.core.preprocessing import ImageLimits
from oodguard.core.verdict import Decision
from oodguard.server.engines.registry import LocalEngineName

HEAD = struct.Struct(">I")


class ShadowPlan(Frozen):
    """What the process is to do; `asked`: targets in place of the bundle's, where a request names none."""

    bundle: Path
    engine: LocalEngineName
    asked: dict[str, float]
    limits: ImageLimits
    trust: Path | None = None


class ShadowHello(Frozen):
    """The first word of the process: the model that it judges with, or why it cannot."""

    model: ModelRef | None = None
    problem: str | None = None


class ShadowRequest(Frozen):
    """Images to judge by the targets and the source that their requests named; their bytes follow, in this order."""

    asked: dict[str, float]
    source: str | None = None
    sizes: tuple[int, ...]


class ShadowVerdict(Frozen):
    """What is compared of a verdict."""

    label: str
    is_ood: bool
    decision: Decision


class ShadowAnswer(Frozen):
    """A verdict for each image, None for one that failed, and the seconds that inference took."""

    verdicts: tuple[ShadowVerdict | None, ...]
    inference: float


Record = TypeVar("Record", bound=Frozen)


def send(channel: socket.socket, record: Frozen, blobs: Iterable[bytes] = ()) -> None:
    """Send a record, and bytes after it. Raises `OSError`."""
    head = record.model_dump_json().encode()
    channel.sendall(HEAD.pack(len(head)) + head)
    for blob in blobs:
        channel.sendall(blob)


def receive(channel: socket.socket, kind: type[Record]) -> Record:
    """The next record. Raises `EOFError` where the other side has ended, `OSError` where it does not answer."""
    (size,) = HEAD.unpack(receive_bytes(channel, HEAD.size))
    return kind.model_validate_json(receive_bytes(channel, size))


def receive_bytes(channel: socket.socket, size: int) -> bytes:
    """The next `size` bytes. Raises as `receive` does."""
    found = bytearray(size)
    rest = memoryview(found)
    while rest:
        count = channel.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return bytes(found)

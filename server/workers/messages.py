"""What the fleet and a worker say to each other: JSON lines over a pair of sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Literal

from pydantic import ValidationError

from oodguard.core.frozen import Frozen

# A line names every class of a model.
MOST_LINE_BYTES = 16 * 2**20


class WorkerPlan(Frozen):
    """What a worker is started with. `settings`: its share of them. Numbers of descriptors: `orders` and `connections`
    from the fleet; `stores`: of the counts of all workers, its own at `number` - 1; `guard`: what they lock.

    `grpc`: the address of the gRPC port, or None.
    """

    number: int
    settings: dict[str, Any]
    orders: int
    connections: int
    stores: tuple[int, ...]
    guard: int
    grpc: tuple[str, int] | None


class Order(Frozen):
    """What the fleet tells a worker. `prepare`: load what is in the bundle folder; `commit` and `abort` follow it.

    `whole`: why the whole is not ready is now `reason`. `drain`: the end begins; `close`: no connection comes any more.
    """

    kind: Literal["prepare", "commit", "abort", "keys", "whole", "drain", "close"]
    reason: str | None = None


class ModelNews(Frozen):
    """What a worker serves from now on. `runs_on` and `sample`, a golden image, are for people."""

    name: str
    version: str
    fingerprint: str | None
    runs_on: str
    sample: str | None
    labels: tuple[str, ...]
    scores: tuple[str, ...]
    sources: tuple[str, ...]


class WorkerState(Frozen):
    """How a worker is. `problem`: why it should get no traffic; `dead`: why it should be started again.

    `open` connections of `received`; `gauges`: name, labels and value of each that is added up over the workers.
    """

    open: int
    received: int
    problem: str | None
    dead: str | None
    gauges: tuple[tuple[str, dict[str, str], float], ...]


class WorkerReport(Frozen):
    """What a worker tells the fleet.

    `refused`: it cannot start: `error` is the kind, `text` the sentence. `model`: what it serves. `started`: it takes
    connections. `prepared`: a bundle with this `fingerprint` waits for `commit`, or cannot serve (`text` says why).
    """

    kind: Literal["refused", "model", "started", "state", "prepared"]
    error: str | None = None
    text: str | None = None
    fingerprint: str | None = None
    model: ModelNews | None = None
    state: WorkerState | None = None


def line(message: Frozen) -> bytes:
    """A message as it is sent."""
    return message.model_dump_json().encode() + b"\n"


async def reports(reader: asyncio.StreamReader) -> AsyncIterator[WorkerReport]:
    """Every report, until the other end closes. Lines that are none end them, too."""
    with contextlib.suppress(ConnectionError, ValidationError, ValueError):
        while text := await reader.readline():
            yield WorkerReport.model_validate_json(text)


async def orders(reader: asyncio.StreamReader) -> AsyncIterator[Order]:
    """Every order, until the fleet is gone."""
    with contextlib.suppress(ConnectionError, ValidationError, ValueError):
        while text := await reader.readline():
            yield Order.model_validate_json(text)

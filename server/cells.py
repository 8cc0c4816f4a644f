"""Where counts are kept: in this process alone, or in memory that outlives a worker and that the others can read."""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import values

# Doubles that every store begins with, at the same place: what all workers read of each other.
ROW = 64
IMAGES, FLAGGED, REFUSED, INSIDE, DECODING, SAMPLED = range(6)
LATENCY = 8
# Pages that nobody writes to take no memory.
MOST_CELLS = 2**23
MOST_KEY_BYTES = 2**25
DOUBLE = 8
# Before the cells: how many of them are taken, and how many bytes of keys.
HEAD = 2


class Numbers(Protocol):
    """Some cells."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[float]: ...
    def __getitem__(self, at: int, /) -> float: ...
    def __setitem__(self, at: int, value: float, /) -> None: ...


class Cells(Protocol):
    """Numbers that only grow, or that belong to a stream of images. One thread at a time writes to a cell.

    `row` are `ROW` cells with a fixed meaning; `others` are those of the other workers.
    """

    row: Numbers
    others: Sequence[Numbers]

    def take(self, name: str, labels: Mapping[str, str], count: int, *, bounds: Sequence[str] = ()) -> Numbers:
        """`count` cells under a name and labels; the same ones again for the same. `bounds`: of a histogram's buckets,
        which the first cells count, and the one behind them adds up.
        """


class PrivateCells:
    """Cells of one process: gone when it ends."""

    def __init__(self) -> None:
        self.row: Numbers = [0.0] * ROW
        self.others: Sequence[Numbers] = ()

    def take(self, name: str, labels: Mapping[str, str], count: int, *, bounds: Sequence[str] = ()) -> Numbers:
        """`count` cells at 0, whatever they are for."""
        return [0.0] * count


@dataclass(frozen=True, slots=True)
class Taken:
    """Cells of a store, and what they are for."""

    name: str
    labels: Mapping[str, str]
    bounds: tuple[str, ...]
    values: Numbers


def new_store() -> int:
    """The descriptor of an empty store: memory without a name where the kernel has that, else a file without one."""
    size = DOUBLE * (HEAD + ROW + MOST_CELLS) + MOST_KEY_BYTES
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("oodguard-counts")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class MappedCells:
    """Cells in a store that outlives the process: one that is started in its place goes on counting where it ended.

    ```python
    cells = MappedCells(new_store())
    cells.take("oodguard_score_flags_total", {"score": "pds"}, 1)[0] += 1
    ```

    A number is written by one machine instruction, so a process that is killed leaves the old number or the new one.
    """

    def __init__(self, descriptor: int, *, others: Sequence[int] = (), guard: int = -1) -> None:
        """`guard`: the descriptor of a file that all workers lock."""
        self.guard = guard
        self._map = mmap.mmap(descriptor, 0)
        numbers = memoryview(self._map)[: DOUBLE * (HEAD + ROW + MOST_CELLS)].cast("d")
        self._head, self._cells = numbers[:HEAD], numbers[HEAD:]
        self._keys_at = DOUBLE * (HEAD + ROW + MOST_CELLS)
        self.row: Numbers = self._cells[:ROW]
        self.others: Sequence[Numbers] = [MappedCells(other).row for other in others]
        self._lock = threading.Lock()
        self._known: dict[str, Numbers] = {}
        self._read, self._at = 0, ROW
        self._taken: list[Taken] = []

    def take(self, name: str, labels: Mapping[str, str], count: int, *, bounds: Sequence[str] = ()) -> Numbers:
        """`count` cells; a store without room gives private ones, which nobody else sees."""
        key = json.dumps([name, dict(labels), list(bounds)])
        with self._lock:
            self._catch_up()
            found = self._known.get(key)
            if found is not None:
                return found
            line = f"{key}\t{count}\n".encode()
            at, keys = max(int(self._head[0]), ROW), int(self._head[1])
            if at + count > MOST_CELLS or keys + len(line) > MOST_KEY_BYTES:
                return [0.0] * count
            place = self._keys_at + keys
            self._map[place : place + len(line)] = line
            # The key first: whoever reads the store reads so many bytes of keys.
            self._head[0] = at + count
            self._head[1] = keys + len(line)
            self._catch_up()
            return self._known[key]

    def _catch_up(self) -> None:
        """Read the keys that were written since."""
        end = int(self._head[1])
        for line in self._map[self._keys_at + self._read : self._keys_at + end].decode().splitlines():
            key, _, count = line.rpartition("\t")
            name, labels, bounds = json.loads(key)
            view = self._cells[self._at : self._at + int(count)]
            self._at += int(count)
            self._known[key] = view
            self._taken.append(Taken(name, labels, tuple(bounds), view))
        self._read = end

    def free(self) -> None:
        """Forget what the process before this one held: images inside, and memory for decoding."""
        self.row[INSIDE] = self.row[DECODING] = 0

    def taken(self) -> Iterator[Taken]:
        """All cells that were taken until now, by whichever process."""
        with self._lock:
            self._catch_up()
            return iter(list(self._taken))


class CellValue:
    """A value of a counter or a histogram of prometheus_client, kept in cells: the number, and when it began."""

    _multiprocess = False

    def __init__(self, cells: Numbers) -> None:
        self._cells = cells
        self._lock = threading.Lock()
        if not cells[1]:
            cells[1] = time.time()

    def inc(self, amount: float) -> None:
        """Add."""
        with self._lock:
            self._cells[0] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set."""
        with self._lock:
            self._cells[0] = value

    def get(self) -> float:
        """The number."""
        return self._cells[0]

    def set_exemplar(self, exemplar: object) -> None:
        """Nothing: no metric of this project has exemplars."""

    def get_exemplar(self) -> None:
        """Nothing."""


def keep_values_in(cells: Cells) -> None:
    """Keep the counters and histograms that this process makes from now on in `cells`; gauges stay its own.

    `prometheus_client` has one class of values for a process; its documents replace it in the same way.
    """

    def value(
        kind: str, metric: str, name: str, labels: Sequence[str], given: Sequence[str], text: str, **options: Any
    ) -> Any:
        if kind not in ("counter", "histogram"):
            mutex: Callable[..., Any] = values.MutexValue
            return mutex(kind, metric, name, labels, given, text, **options)
        return CellValue(cells.take(name, dict(zip(labels, given, strict=True)), 2))

    make: Callable[..., Any] = value
    values.ValueClass = make

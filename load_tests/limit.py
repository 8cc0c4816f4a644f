"""The in-process limit: how many images a second the same work reaches with no server around it.

The work is decode + resize (`load_pixels`) and the graph, in a tight loop. No single organisation of that loop is best
on every machine, so several are measured and the best one counts: threads that share one session, processes with a
session each (both with one ONNX Runtime thread a run), and one loop whose runs use every core; each at several batch
sizes. Every loop decodes its batch in the thread that then runs the graph.
"""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from types import TracebackType

import numpy as np
import onnxruntime as ort

from oodguard.core.errors import EnvironmentProblem
from oodguard.core.manifest import INPUT_NAME, Manifest, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.load_tests.harness import console, cores

BATCHES = (1, 4, 8)
GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class Organisation:
    """One way to spread the loop over the cores."""

    processes: int
    threads: int
    intra_op: int
    batch: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads} loops, {self.intra_op} thread(s) a run, batch {self.batch}"


def organisations(available: int | None = None) -> list[Organisation]:
    """Every organisation worth measuring on `available` cores (default: all)."""
    n = available or cores()
    shapes = {(1, n, 1), (n, 1, 1), (1, 1, n)}
    return [Organisation(*shape, batch) for shape in sorted(shapes) for batch in BATCHES]


class Limit:
    """The loops of one bundle, loaded once and measured as often as asked; idle in between.

    ```python
    with Limit(bundle, images) as limit:
        best = max(organisations(), key=lambda o: limit.measure(o, seconds=2))
    ```
    """

    def __init__(self, bundle: Path, images: Sequence[bytes]) -> None:
        self._bundle = bundle
        self._images = list(images)
        # Not fork: a forked ONNX Runtime has lost its threads.
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[tuple[int, int, int], list[_Worker]] = {}

    def __enter__(self) -> Limit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for workers in self._workers.values():
            for worker in workers:
                worker.stop()

    def measure(self, organisation: Organisation, *, seconds: float) -> float:
        """Images a second over about `seconds`."""
        shape = (organisation.processes, organisation.threads, organisation.intra_op)
        if shape not in self._workers:
            self._workers[shape] = []
            for _ in range(organisation.processes):
                self._workers[shape].append(_Worker(self._context, self._bundle, self._images, organisation))
            for worker in self._workers[shape]:
                worker.answer()
        workers = self._workers[shape]
        for worker in workers:
            worker.ask(seconds, organisation.batch)
        return sum(worker.answer(seconds) for worker in workers)


class _Worker:
    """One process of loops, and the pipe to it."""

    def __init__(
        self,
        context: SpawnContext,
        bundle: Path,
        images: list[bytes],
        organisation: Organisation,
    ) -> None:
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, bundle, images, organisation.threads, organisation.intra_op)
        self._process = context.Process(target=_serve_loops, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, seconds: float, batch: int) -> None:
        self._pipe.send((seconds, batch))

    def answer(self, seconds: float = 0.0) -> float:
        try:
            if self._pipe.poll(seconds + GRACE_SECONDS):
                return float(self._pipe.recv())
        except EOFError:
            pass
        raise EnvironmentProblem("a process of the in-process limit ended or hangs; is there enough memory?")

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _serve_loops(pipe: Connection, bundle: Path, images: list[bytes], threads: int, intra_op: int) -> None:
    manifest = load_manifest(bundle)
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op
    graph = ort.InferenceSession(str(bundle / manifest.graph), options, providers=["CPUExecutionProvider"])
    pipe.send(0.0)
    try:
        while True:
            seconds, batch = pipe.recv()
            pipe.send(_loops(graph, manifest, images, threads=threads, seconds=seconds, batch=batch))
    except (EOFError, KeyboardInterrupt):
        return


def _loops(
    graph: ort.InferenceSession, manifest: Manifest, images: list[bytes], *, threads: int, seconds: float, batch: int
) -> float:
    rates: list[float] = []
    begin = threading.Barrier(threads)

    def loop(offset: int) -> None:
        _batch(graph, manifest, images, first=offset, batch=batch)
        begin.wait()
        started = time.perf_counter()
        done = 0
        while time.perf_counter() - started < seconds:
            _batch(graph, manifest, images, first=offset + done, batch=batch)
            done += batch
        rates.append(done / (time.perf_counter() - started))

    running = [threading.Thread(target=loop, args=(index * batch,), daemon=True) for index in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(rates)


def _batch(graph: ort.InferenceSession, manifest: Manifest, images: list[bytes], *, first: int, batch: int) -> None:
    chosen = [images[(first + index) % len(images)] for index in range(batch)]
    graph.run(None, {INPUT_NAME: np.stack([load_pixels(image, manifest.preprocessing) for image in chosen])})


def finalists(rates: Mapping[Organisation, float]) -> list[Organisation]:
    """The best batch size of each way to spread the loop: one brief look must not decide between the ways."""
    ways: dict[tuple[int, int, int], Organisation] = {}
    for organisation in sorted(rates, key=lambda o: rates[o]):
        ways[organisation.processes, organisation.threads, organisation.intra_op] = organisation
    return list(ways.values())


def fastest(chosen: Sequence[Organisation], rounds: Sequence[Mapping[Organisation, float]]) -> Organisation:
    """The organisation with the highest median over the rounds: the limit."""
    return max(chosen, key=lambda o: statistics.median(rates[o] for rates in rounds))


def turns(number: int, one: str, other: str) -> tuple[str, str]:
    """Who is measured first in round `number`: every other round the other, so that drift favours neither."""
    return (one, other) if number % 2 == 0 else (other, one)


@dataclass(frozen=True)
class Comparison:
    """The limit of each round in images a second, and how the fastest loop was organised."""

    organisation: Organisation
    limits: tuple[float, ...]

    def row(self, name: str, rates: Sequence[float]) -> dict[str, object]:
        """Medians of the limit and of `rates`, one a round; a share is taken within its round."""
        shares = [100 * rate / limit for rate, limit in zip(rates, self.limits, strict=True)]
        return {
            "limit": round(statistics.median(self.limits), 1),
            "limit_organisation": str(self.organisation),
            name: round(statistics.median(rates), 1),
            "share_percent": round(statistics.median(shares), 1),
            "share_range": f"{min(shares):.1f} to {max(shares):.1f}",
            "limits": [round(limit, 1) for limit in self.limits],
            f"{name}s": [round(rate, 1) for rate in rates],
        }


def compare(limit: Limit, measure: Callable[[], str], *, rounds: int, seconds: float) -> Comparison:
    """Measure the limit and call `measure` in turn; `measure` returns what is printed beside the limit.

    Every organisation is measured once, briefly; the best batch size of each kind is then measured in every round.
    """
    looks: dict[Organisation, float] = {}
    for organisation in organisations():
        looks[organisation] = limit.measure(organisation, seconds=max(seconds / 3, 1))
        console.print(f"  {organisation}: {looks[organisation]:.1f} img/s", style="dim")
    chosen = finalists(looks)
    found: list[dict[Organisation, float]] = []
    said = ""
    for number in range(rounds):
        for what in turns(number, "limit", "other"):
            if what == "limit":
                found.append({organisation: limit.measure(organisation, seconds=seconds) for organisation in chosen})
            else:
                said = measure()
        console.print(f"  limit {max(found[-1].values()):.1f} img/s, {said}", style="dim")
    best = fastest(chosen, found)
    return Comparison(best, tuple(rates[best] for rates in found))

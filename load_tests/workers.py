"""What more worker processes bring: images a second with 1 to 8 of them, and two of them beside one process.

The first table has an engine that sleeps instead of computing, so that it shows the server alone: connections spread
evenly, and nothing of one worker held up by another. The second has the real graph, measured in turn, round after
round; a ratio is taken within its round.

    python load_tests/workers.py BUNDLE --images photos/test --json workers.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.harness import (
    OtherPrograms,
    console,
    read_bundle,
    read_images,
    report_table,
    run_script,
    write_report,
)
from oodguard.load_tests.load import LoadResult
from oodguard.load_tests.load_client import saturate
from oodguard.load_tests.options import Options
from oodguard.load_tests.request import requests_of

# Each process of a server imports it at its start, and then has the sleeping engine in place of the usual one.
SLEEPING = """
import sys
if any("oodguard" in part for part in sys.orig_argv):
    from oodguard.server.engines import registry
    from oodguard.server.engines.fake import FakeEngine

    def sleeping(bundle, manifest, plan, device):
        engine = FakeEngine(bundle, manifest, slots=plan.sessions)
        engine.delay = {delay}
        return engine

    registry.LOCAL["onnxruntime"] = registry.EngineEntry(sleeping, (), extra="guard")
"""
# Connections of a worker: while one image is inferred, the next ones are there.
CALLERS = 4
WARMUP = 1.0

SLEEPING_COLUMNS = {
    "workers": "workers",
    "rate": "img/s",
    "linear": "of linear %",
    "linear_range": "lowest to highest",
    "p99_ms": "p99 ms",
    "failed": "failed",
    "client_cpu": "client CPU",
}
GRAPH_COLUMNS = {
    "one": "one process img/s",
    "two": "two workers img/s",
    "ratio": "two / one",
    "ratio_range": "lowest to highest",
    "p99_one_ms": "p99 ms, one",
    "p99_two_ms": "p99 ms, two",
    "failed": "failed",
}


def main() -> None:
    """Measure and print."""
    parser = Options("Images a second with more worker processes.", seconds=4, rounds=5)
    parser.add_bundle().add_images().add_serve().add_connections()
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of workers to compare")
    parser.add_argument("--delay", type=float, default=0.08, help="seconds that the sleeping engine takes an image")
    parser.add_argument("--only", choices=("sleeping", "graph"), help="one of the two tables")
    options = parser.parse()
    others = OtherPrograms()
    read_bundle(options.bundle)
    images = read_images(options.images, count=options.count)
    rows: list[dict[str, object]] = []
    if options.only != "graph":
        rows += _sleeping(images, options)
        title = f"an engine that sleeps {1000 * options.delay:g} ms an image; medians of {options.rounds} rounds"
        console.print(report_table(title, SLEEPING_COLUMNS, rows))
    if options.only != "sleeping":
        row = _graph(images, options)
        console.print(report_table(f"the real graph, {options.connections} connections; medians", GRAPH_COLUMNS, [row]))
        rows.append(row)
    write_report(options.json, options={**vars(options), **others.report()}, rows=rows)


@contextmanager
def sleeping_engine(delay: float) -> Iterator[None]:
    """Servers that are started inside have an engine that sleeps `delay` seconds for each batch."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(SLEEPING.format(delay=delay), encoding="utf-8")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, before)))
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


def _sleeping(images: list[bytes], options: argparse.Namespace) -> list[dict[str, object]]:
    found: dict[int, list[LoadResult]] = {count: [] for count in options.workers}
    requests = requests_of("raw", images)
    with sleeping_engine(options.delay):
        for _ in range(options.rounds):
            for count, results in found.items():
                flags = ("--workers", str(count), "--sessions", str(count), "--max-batch", "1", *options.serve)
                with Gateway(options.bundle, *flags) as gateway:
                    load = {"connections": CALLERS * count, "seconds": options.seconds, "warmup": WARMUP}
                    results.append(saturate(requests, port=gateway.port, **load))
    rows: list[dict[str, object]] = []
    for count, results in found.items():
        # What the engine would give if nothing else took time, from its own sleep.
        shares = [100 * one.rate * options.delay / count for one in results]
        rows.append(
            {
                "workers": count,
                "rate": round(statistics.median(one.rate for one in results), 1),
                "linear": round(statistics.median(shares), 1),
                "linear_range": f"{min(shares):.1f} to {max(shares):.1f}",
                "p99_ms": round(statistics.median(one.latency(99) for one in results), 1),
                "failed": sum(one.failed for one in results),
                "client_cpu": round(statistics.median(one.client_cpu for one in results), 3),
            }
        )
    return rows


def _graph(images: list[bytes], options: argparse.Namespace) -> dict[str, object]:
    found: tuple[list[LoadResult], list[LoadResult]] = ([], [])
    requests = requests_of("raw", images)
    with (
        Gateway(options.bundle, *options.serve) as one,
        Gateway(options.bundle, "--workers", "2", *options.serve) as two,
    ):
        for number in range(options.rounds):
            # The other one first in every second round.
            for at in (0, 1) if number % 2 == 0 else (1, 0):
                load = {"connections": options.connections, "seconds": options.seconds, "warmup": WARMUP}
                found[at].append(saturate(requests, port=(one, two)[at].port, **load))
    ratios = [b.rate / a.rate for a, b in zip(*found, strict=True)]
    return {
        "one": round(statistics.median(result.rate for result in found[0]), 1),
        "two": round(statistics.median(result.rate for result in found[1]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": f"{min(ratios):.2f} to {max(ratios):.2f}",
        "p99_one_ms": round(statistics.median(result.latency(99) for result in found[0]), 1),
        "p99_two_ms": round(statistics.median(result.latency(99) for result in found[1]), 1),
        "failed": sum(result.failed for results in found for result in results),
    }


if __name__ == "__main__":
    run_script(main)

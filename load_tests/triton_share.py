"""The same graph three ways: behind the gateway embedded, behind the gateway in Triton, and in Triton alone.

All ways run on the same cores, in turn, round after round, under the same client. Triton is a real one, installed into
an environment of its own on first use; it runs the graph with its python backend, on ONNX Runtime like ours. Asked
directly it gets pixels: nobody decodes an image and nobody judges the scores there.

    python load_tests/triton_share.py BUNDLE --images photos/test --json triton.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from oodguard.core.answers import PredictResponse
from oodguard.core.errors import QualityError
from oodguard.core.manifest import Manifest
from oodguard.export.triton.options import TritonOptions
from oodguard.export.triton.repository import Placed, write_repository
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.harness import (
    OtherPrograms,
    console,
    cores,
    read_bundle,
    read_images,
    report_table,
    run_script,
    write_report,
)
from oodguard.load_tests.load import LoadResult
from oodguard.load_tests.load_client import saturate
from oodguard.load_tests.options import Options
from oodguard.load_tests.real_triton import Triton, triton_environment
from oodguard.load_tests.request import Request, raw, requests_of
from oodguard.load_tests.triton_http import Served

EMBEDDED, GATEWAY, SHARED, DIRECT = "gateway, embedded", "gateway, Triton", "gateway, Triton, shared memory", "Triton"
TOLERANCE = 1e-4
COLUMNS = {
    "way": "way",
    "images_per_second": "images/s",
    "range": "range",
    "of_embedded": "of embedded %",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "per_cpu_second": "images/CPU s",
    "client_cpu": "client CPU",
    "failed": "failed",
}


@dataclass(frozen=True)
class Round:
    """One way in one round: what the client saw, and the servers' processor time for each second of it."""

    result: LoadResult
    cores_used: float


def main() -> None:
    """Measure and print."""
    options = _options()
    others = OtherPrograms()
    manifest = read_bundle(options.bundle)
    images = read_images(options.images, count=options.count)
    home = triton_environment(options.cache)
    # One place a connection, at least: a refusal is a speed of its own.
    chosen = TritonOptions(
        backend="python",
        instances=options.instances,
        threads=options.threads,
        max_batch=options.max_batch,
        max_queue=max(64, 2 * options.connections),
    )
    rounds: dict[str, list[Round]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory(prefix="oodguard-triton-") as folder:
        repository = Path(folder) / "repository"
        placed = write_repository(options.bundle, repository, chosen)
        for number in range(options.rounds):
            for way in rounds if number % 2 == 0 else reversed(rounds):
                if way == EMBEDDED:
                    flags = ("--sessions", options.instances, "--threads", options.threads)
                    found = _gateway(options, images, *map(str, (*flags, "--max-batch", options.max_batch)))
                else:
                    with Triton(home, repository, models=[placed.name]) as triton:
                        found = _in_triton(way, triton, options, manifest, images, placed)
                rounds[way].append(found)
                console.print(f"  {way}: {found.result.rate:.1f} img/s", style="dim")
    rows = summarise(rounds)
    title = (
        f"{options.bundle.name}: {options.rounds} rounds of {options.seconds:g} s, {options.connections} connections, "
        f"{options.instances} x {options.threads} threads, batches of up to {options.max_batch}; medians"
    )
    console.print(report_table(title, COLUMNS, rows))
    write_report(options.json, options={**vars(options), **others.report()}, rows=rows)


def _in_triton(
    way: str, triton: Triton, options: argparse.Namespace, manifest: Manifest, images: list[bytes], placed: Placed
) -> Round:
    if way == DIRECT:
        served = Served(placed.name, placed.number, manifest)
        return _measure([served.request([image]) for image in images], triton.http, options, triton.cpu_seconds)
    flags = ("--engine", "triton", "--triton-url", triton.address)
    shared = ("--triton-shared-memory",) if way == SHARED else ()
    return _gateway(options, images, *flags, *shared, triton=triton)


def _gateway(options: argparse.Namespace, images: list[bytes], *flags: str, triton: Triton | None = None) -> Round:
    with Gateway(options.bundle, *flags) as gateway:
        _check(gateway, options.bundle)

        def used() -> float:
            return gateway.cpu_seconds() + (triton.cpu_seconds() if triton else 0.0)

        return _measure(requests_of("raw", images), gateway.port, options, used)


def _check(gateway: Gateway, bundle: Path) -> None:
    """The golden image must get the manifest's answer, whichever way the graph is run."""
    golden = read_bundle(bundle).golden[0]
    request = raw([(bundle / golden.path).read_bytes()])
    answer = httpx.post(
        f"{gateway.url}{request.path}", content=request.content, headers=dict(request.headers), timeout=30
    )
    (found,) = PredictResponse.model_validate_json(answer.raise_for_status().content).predictions
    if found.label != golden.label or abs(found.probability - max(golden.probabilities)) > TOLERANCE:
        raise QualityError(f"{gateway.name} answers {found.label} {found.probability} for {golden.path}")


def _measure(requests: Sequence[Request], port: int, options: argparse.Namespace, used: Callable[[], float]) -> Round:
    saturate(requests, port=port, seconds=2, connections=options.connections)
    before = used()
    result = saturate(requests, port=port, seconds=options.seconds, connections=options.connections)
    return Round(result, (used() - before) / options.seconds)


def summarise(rounds: dict[str, list[Round]]) -> list[dict[str, object]]:
    """One row a way: medians over its rounds; the share of the embedded way is taken within each round."""
    base = [one.result.rate for one in rounds.get(EMBEDDED, [])]
    rows: list[dict[str, object]] = []
    for way, found in rounds.items():
        rates = [one.result.rate for one in found]
        shares = [100 * rate / other for rate, other in zip(rates, base, strict=False)]
        per_cpu_second = (one.result.rate / max(one.cores_used, 1e-9) for one in found)
        rows.append(
            {
                "way": way,
                "images_per_second": round(statistics.median(rates), 1),
                "range": f"{min(rates):.0f}-{max(rates):.0f}",
                "of_embedded": round(statistics.median(shares), 1) if shares else None,
                "p50_ms": round(statistics.median(one.result.latency(50) for one in found), 1),
                "p99_ms": round(statistics.median(one.result.latency(99) for one in found), 1),
                "per_cpu_second": round(statistics.median(per_cpu_second), 1),
                "client_cpu": round(statistics.median(one.result.client_cpu for one in found), 3),
                "failed": sum(one.result.failed for one in found),
                "rates": [round(rate, 1) for rate in rates],
            }
        )
    return rows


def _options() -> argparse.Namespace:
    parser = Options("The same graph embedded, in Triton behind the gateway, and in Triton.", seconds=6, rounds=3)
    parser.add_bundle().add_images().add_connections()
    parser.add_argument("--instances", type=int, default=cores(), help="inferences at once (default: one per core)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each (default: 1)")
    parser.add_argument("--max-batch", type=int, default=8, help="maximum of images in one inference (default: 8)")
    parser.add_argument("--no-shared-memory", action="store_true", help="leave the way with shared memory out")
    parser.add_argument("--cache", type=Path, default=Path(".oodguard-cache"), help="where Triton is installed")
    options = parser.parse()
    options.ways = [way for way in (EMBEDDED, GATEWAY, SHARED, DIRECT) if way != SHARED or not options.no_shared_memory]
    return options


if __name__ == "__main__":
    run_script(main)

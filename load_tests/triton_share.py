"""The same graph three ways: behind the gateway embedded, behind the gateway in Triton, and in Triton alone.

All ways run on the same cores, in turn, round after round, under the same client (wrk). Triton is a real one, installed
into an environment of its own on first use; it runs the graph with its python backend, on ONNX Runtime like ours. Asked
directly it gets pixels: nobody decodes an image and nobody judges the scores there.

    python load_tests/triton_share.py BUNDLE --images photos/test --json triton.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from oodguard.core.errors import InputError, QualityError
from oodguard.core.manifest import Manifest
from oodguard.export.triton.options import TritonOptions
from oodguard.export.triton.repository import Placed, write_repository
from oodguard.load_tests.harness import (
    Bystanders,
    console,
    cores,
    read_bundle,
    read_images,
    report_table,
    run_script,
    write_report,
)
from oodguard.load_tests.real_triton import Triton, triton_environment
from oodguard.load_tests.serving import HOST, Server, free_port, oodguard_command
from oodguard.load_tests.triton_http import HEAD_LENGTH, decode, pixel_request
from oodguard.load_tests.wrk import Form, WrkResult, raw_form, require_wrk, run_wrk

EMBEDDED, GATEWAY, SHARED, DIRECT = "gateway, embedded", "gateway, Triton", "gateway, Triton, shared memory", "Triton"
TOLERANCE = 1e-4
JPEG = {"content-type": "image/jpeg"}
COLUMNS = {
    "way": "way",
    "images_per_second": "images/s",
    "range": "range",
    "of_embedded": "of embedded %",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "per_cpu_second": "images/CPU s",
    "client_cpu": "wrk CPU",
    "non_2xx": "non-2xx",
}


@dataclass(frozen=True)
class Round:
    """One way in one round: what wrk saw, and the servers' processor time for each second of it."""

    result: WrkResult
    cores_used: float


def main() -> None:
    """Measure and print."""
    options = _options()
    bystanders = Bystanders()
    require_wrk()
    manifest = read_bundle(options.bundle)
    images = read_images(options.images, count=options.distinct)
    home = triton_environment(options.cache)
    # One place a connection, at least: a refusal is a speed of its own.
    chosen = TritonOptions(
        backend="python",
        instances=options.instances,
        threads=options.threads,
        max_batch=options.max_batch,
        max_queue=max(64, 2 * options.connections),
    )
    embedded = f"--sessions {options.instances} --threads {options.threads} --max-batch {options.max_batch}"
    rounds: dict[str, list[Round]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory(prefix="oodguard-triton-") as folder:
        repository = Path(folder) / "repository"
        placed = write_repository(options.bundle, repository, chosen)
        for number in range(options.rounds):
            for way in rounds if number % 2 == 0 else reversed(rounds):
                if way == EMBEDDED:
                    found = _gateway(options, images, embedded)
                else:
                    with Triton(home, repository, models=[placed.name]) as triton:
                        found = _in_triton(way, triton, options, manifest, images, placed)
                rounds[way].append(found)
                console.print(f"  {way}: {found.result.images_per_second:.1f} img/s", style="dim")
    rows = summarise(rounds)
    title = (
        f"{options.bundle.name}: {options.rounds} rounds of {options.seconds:g} s, {options.connections} connections, "
        f"{options.instances} x {options.threads} threads, batches of up to {options.max_batch}; medians"
    )
    console.print(report_table(title, COLUMNS, rows))
    write_report(options.json, options={**vars(options), **bystanders.report()}, rows=rows)


def _in_triton(
    way: str, triton: Triton, options: argparse.Namespace, manifest: Manifest, images: list[bytes], placed: Placed
) -> Round:
    if way == DIRECT:
        form = pixel_form(images, manifest, path=f"/v2/models/{placed.name}/versions/{placed.number}/infer")
        return _measure(form, triton.http, options, triton.cpu_seconds)
    extra = f"--engine triton --triton-url {triton.address}" + (" --triton-shared-memory" if way == SHARED else "")
    return _gateway(options, images, extra, triton=triton)


def _gateway(options: argparse.Namespace, images: list[bytes], extra: str, *, triton: Triton | None = None) -> Round:
    port = free_port()
    command = oodguard_command(options.bundle, port=port, extra=extra)
    with Server("oodguard", command, port=port, body=images[0]) as server:
        _check(server, options.bundle)

        def used() -> float:
            return server.cpu_seconds() + (triton.cpu_seconds() if triton else 0.0)

        return _measure(raw_form(images), port, options, used)


def _check(server: Server, bundle: Path) -> None:
    """The golden image must get the manifest's answer, whichever way the graph is run."""
    golden = read_bundle(bundle).golden[0]
    answer = httpx.post(
        f"http://{HOST}:{server.port}/predict", content=(bundle / golden.path).read_bytes(), headers=JPEG, timeout=30
    )
    body = answer.raise_for_status().content
    found = json.loads(body)["predictions"][0]
    if found["label"] != golden.label or abs(found["probability"] - max(golden.probabilities)) > TOLERANCE:
        raise QualityError(f"{server.name} answers {found['label']} {found['probability']} for {golden.path}")


def _measure(form: Form, port: int, options: argparse.Namespace, used: Callable[[], float]) -> Round:
    run_wrk(form, port=port, seconds=2, connections=options.connections)
    before = used()
    result = run_wrk(form, port=port, seconds=options.seconds, connections=options.connections)
    return Round(result, (used() - before) / options.seconds)


def pixel_form(images: list[bytes], manifest: Manifest, *, path: str) -> Form:
    """Requests of Triton's own protocol over HTTP: one decoded image each, as a binary tensor."""
    bodies = [pixel_request(decode([image], manifest), manifest) for image in images]
    # All heads are equally long: names and sizes do not depend on the image.
    headers = ((HEAD_LENGTH, str(len(bodies[0][0]))),)
    return Form("pixels", path, "application/octet-stream", tuple(head + data for head, data in bodies), headers)


def summarise(rounds: dict[str, list[Round]]) -> list[dict[str, object]]:
    """One row a way: medians over its rounds; the share of the embedded way is taken within each round."""
    base = [one.result.images_per_second for one in rounds.get(EMBEDDED, [])]
    rows: list[dict[str, object]] = []
    for way, found in rounds.items():
        rates = [one.result.images_per_second for one in found]
        shares = [100 * rate / other for rate, other in zip(rates, base, strict=False)]
        rows.append(
            {
                "way": way,
                "images_per_second": round(statistics.median(rates), 1),
                "range": f"{min(rates):.0f}-{max(rates):.0f}",
                "of_embedded": round(statistics.median(shares), 1) if shares else None,
                "p50_ms": round(statistics.median(one.result.p50_ms for one in found), 1),
                "p99_ms": round(statistics.median(one.result.p99_ms for one in found), 1),
                "per_cpu_second": round(
                    statistics.median(one.result.images_per_second / max(one.cores_used, 1e-9) for one in found), 1
                ),
                "client_cpu": round(statistics.median(one.result.client_cpu for one in found), 3),
                "non_2xx": sum(one.result.non_2xx + one.result.broken for one in found),
                "rates": [round(rate, 1) for rate in rates],
            }
        )
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="The same graph embedded, in Triton behind the gateway, and in Triton."
    )
    parser.add_argument("bundle", type=Path, help="bundle folder written by oodguard export")
    parser.add_argument("--images", type=Path, required=True, help="folder of images to send, searched recursively")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--rounds", type=int, default=3, help="how often the ways take turns (default: 3)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each measurement (default: 6)")
    parser.add_argument("--connections", type=int, default=16, help="wrk's connections (default: 16)")
    parser.add_argument("--instances", type=int, default=cores(), help="inferences at once (default: one a core)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each (default: 1)")
    parser.add_argument("--max-batch", type=int, default=8, help="most images in one inference (default: 8)")
    parser.add_argument("--distinct", type=int, default=16, help="how many different images to rotate over")
    parser.add_argument("--no-shared-memory", action="store_true", help="leave the way with shared memory out")
    parser.add_argument("--cache", type=Path, default=Path(".oodguard-cache"), help="where Triton is installed")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        raise InputError("--rounds and --seconds must be at least 1")
    options.ways = [way for way in (EMBEDDED, GATEWAY, SHARED, DIRECT) if way != SHARED or not options.no_shared_memory]
    return options


if __name__ == "__main__":
    run_script(main)

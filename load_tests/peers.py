"""oodguard beside LitServe, BentoML, MLServer and a plain FastAPI loop: same graph, same images, same machine.

Each server is measured alone, in turn, round after round: its capacity under connections that never pause, then its
latency at 70 % of that capacity, offered at a fixed rate. Each peer runs in an environment of its own, made on first
use, with the best configuration found for it (see peers/<name>_server.py), and its answers are checked before it is
measured. Peers return label, probabilities and scores; only oodguard also judges them against calibrated thresholds.

    python load_tests/peers.py BUNDLE --images photos/test --json peers.json
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import onnxruntime as ort

from oodguard.core.errors import QualityError
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME, Manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.load_tests.environments import PEERS, peer_python
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
from oodguard.load_tests.load import LoadResult, schedule
from oodguard.load_tests.load_client import LoadClient, saturate
from oodguard.load_tests.options import Options
from oodguard.load_tests.process import HOST, Process, free_ports
from oodguard.load_tests.request import Request, requests_of

OWN = "oodguard"
LOAD = 0.7
TOLERANCE = 1e-3
COLUMNS = {
    "server": "server",
    "images_per_second": "images/s",
    "range": "range",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "p50_at_70_ms": "p50 at 70 %",
    "p99_at_70_ms": "p99 at 70 %",
    "per_cpu_second": "images/CPU s",
    "failed": "failed",
    "throughput_ratio": "ours/theirs",
    "p99_ratio": "p99 at 70 %",
}
# Each peer's environment, and the arguments of its server's script.
PEER_SERVERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "litserve": ("litserve", ()),
    "bentoml": ("bentoml", ()),
    "mlserver": ("mlserver", ()),
    "fastapi-plain": ("fastapi", ("--workers", "1", "--threads", "0", "--parallel", "0")),
    "fastapi-tuned": ("fastapi", ()),
}


@dataclass(frozen=True)
class Round:
    """One server's numbers in one round; `cpu` is its processor time for each second of saturation."""

    saturated: LoadResult
    at_70: LoadResult
    cpu: float


class PeerServer(Process):
    """A peer's server, ready when it answers a request like those that are measured."""

    def __init__(self, name: str, bundle: Path, request: Request, *, cache: Path) -> None:
        environment, arguments = PEER_SERVERS[name]
        (self.port,) = free_ports(1)
        script = PEERS / f"{environment}_server.py"
        super().__init__(
            name,
            [peer_python(environment, cache=cache), script, bundle.resolve(), "--port", str(self.port), *arguments],
            ready=lambda: _answer(self.port, request) is not None,
            # Our packages must not reach the peer.
            environment={"PYTHONPATH": ""},
        )


def main() -> None:
    """Measure and print."""
    parser = Options("oodguard serve beside LitServe, BentoML, MLServer and FastAPI.", seconds=8, rounds=3)
    parser.add_bundle().add_images().add_serve().add_connections()
    parser.add_argument("--only", nargs="+", choices=PEER_SERVERS, default=[*PEER_SERVERS], help="which peers")
    parser.add_argument("--cache", type=Path, default=Path(".oodguard-cache"), help="where peers are installed")
    options = parser.parse()
    others = OtherPrograms()
    manifest = read_bundle(options.bundle)
    requests = requests_of("raw", read_images(options.images, count=options.count))
    expected = _expected(options.bundle, manifest, requests[0].content)
    servers = {name: PeerServer(name, options.bundle, requests[0], cache=options.cache) for name in options.only}
    rounds: dict[str, list[Round]] = {name: [] for name in (OWN, *servers)}
    for _ in range(options.rounds):
        for name, found in rounds.items():
            with servers.get(name) or Gateway(options.bundle, *options.serve) as server:
                _check(server, requests[0], expected)
                found.append(_measure(server, requests, options))
            rate, wait = found[-1].saturated.rate, found[-1].at_70.latency(99)
            console.print(f"  {name}: {rate:.1f} img/s, p99 at 70 % {wait:.1f} ms", style="dim")
    rows = summarise(rounds)
    title = f"{options.bundle.name}: medians of {options.rounds} rounds, {options.connections} connections, raw bodies"
    console.print(report_table(title, COLUMNS, rows))
    write_report(options.json, options={**vars(options), **others.report()}, rows=rows)


def _expected(bundle: Path, manifest: Manifest, image: bytes) -> tuple[str, float]:
    graph = ort.InferenceSession(str(bundle / manifest.graph), providers=["CPUExecutionProvider"])
    pixels = load_pixels(image, manifest.preprocessing)[None]
    probabilities = graph.run([PROBABILITIES_NAME], {INPUT_NAME: pixels})[0][0]
    return manifest.classes[int(probabilities.argmax())], float(probabilities.max())


def _answer(port: int, request: Request) -> dict[str, Any] | None:
    """What a server says of one image; None where it is not answered with 200."""
    url = f"http://{HOST}:{port}{request.path}"
    try:
        answer = httpx.post(url, content=request.content, headers=dict(request.headers), timeout=30)
    except httpx.TransportError:
        return None
    found = answer.json() if answer.status_code == 200 else None
    return found["predictions"][0] if found and "predictions" in found else found


def _check(server: PeerServer | Gateway, request: Request, expected: tuple[str, float]) -> None:
    answer = _answer(server.port, request) or {}
    label, probability = answer.get("label"), answer.get("probability", math.nan)
    if label != expected[0] or not abs(probability - expected[1]) <= TOLERANCE or not answer.get("scores"):
        raise QualityError(f"{server.name} answers {label} {probability} where the graph says {expected}")


def _measure(server: PeerServer | Gateway, requests: Sequence[Request], options: argparse.Namespace) -> Round:
    saturate(requests, port=server.port, seconds=2, connections=options.connections)
    before = server.cpu_seconds()
    saturated = saturate(requests, port=server.port, seconds=options.seconds, connections=options.connections)
    cpu = (server.cpu_seconds() - before) / options.seconds
    client = LoadClient(requests, port=server.port)
    due = schedule(LOAD * saturated.rate, options.seconds)
    return Round(saturated, asyncio.run(client.offer(due, seconds=options.seconds)), cpu)


def summarise(rounds: dict[str, list[Round]]) -> list[dict[str, object]]:
    """One row a server: medians over its rounds, and how oodguard compares."""
    medians = {name: _medians(found) for name, found in rounds.items()}
    own = medians[OWN]
    rows: list[dict[str, object]] = []
    for name, found in rounds.items():
        rates = [one.saturated.rate for one in found]
        theirs = medians[name]
        row: dict[str, object] = {
            "server": name,
            **{key: round(value, 1) for key, value in theirs.items()},
            "range": f"{min(rates):.0f}-{max(rates):.0f}",
            "failed": sum(one.saturated.failed + one.at_70.failed for one in found),
            "rates": [round(rate, 1) for rate in rates],
            "client_cpu_at_70": round(max(one.at_70.client_cpu for one in found), 3),
            "late_p99_ms": round(max(one.at_70.late_p99_ms for one in found), 1),
        }
        if name != OWN:
            row["throughput_ratio"] = round(own["images_per_second"] / theirs["images_per_second"], 2)
            row["p99_ratio"] = round(own["p99_at_70_ms"] / theirs["p99_at_70_ms"], 2)
        rows.append(row)
    return rows


def _medians(found: Sequence[Round]) -> dict[str, float]:
    columns = {
        "images_per_second": [one.saturated.rate for one in found],
        "p50_ms": [one.saturated.latency(50) for one in found],
        "p99_ms": [one.saturated.latency(99) for one in found],
        "p50_at_70_ms": [one.at_70.latency(50) for one in found],
        "p99_at_70_ms": [one.at_70.latency(99) for one in found],
        "per_cpu_second": [one.saturated.rate / max(one.cpu, 1e-9) for one in found],
    }
    return {name: statistics.median(values) for name, values in columns.items()}


if __name__ == "__main__":
    run_script(main)

"""oodguard beside LitServe, BentoML, MLServer and a plain FastAPI loop: same graph, same images, same machine.

Each server is measured alone, in turn, round after round: its capacity with wrk, then its latency at 70 % of that
capacity with the open-loop client. Each peer runs in an environment of its own, made on first use, with the best
configuration found for it (see peers/<name>_server.py), and its answers are checked before it is measured. Peers
return label, probabilities and scores; only oodguard also judges them against calibrated thresholds.

    python load_tests/peers.py BUNDLE --images photos/test --json peers.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from oodguard.core.errors import InputError, QualityError
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME, Manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.load_tests.environments import PEERS, environment
from oodguard.load_tests.harness import (
    Bystanders,
    console,
    read_bundle,
    read_images,
    report_table,
    run_script,
    write_report,
)
from oodguard.load_tests.load import LoadResult, schedule
from oodguard.load_tests.open_loop import OpenLoop
from oodguard.load_tests.serving import Server, free_port, oodguard_command
from oodguard.load_tests.wrk import Form, WrkResult, raw_form, require_wrk, run_wrk

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


@dataclass(frozen=True)
class Peer:
    """A server to stand beside: the environment it runs in, and its script's arguments."""

    name: str
    environment: str
    arguments: tuple[str, ...] = ()


SERVERS = (
    Peer("litserve", "litserve"),
    Peer("bentoml", "bentoml"),
    Peer("mlserver", "mlserver"),
    Peer("fastapi-plain", "fastapi", ("--workers", "1", "--threads", "0", "--parallel", "0")),
    Peer("fastapi-tuned", "fastapi"),
)


@dataclass(frozen=True)
class Round:
    """One server's numbers in one round."""

    saturated: WrkResult
    at_70: LoadResult
    cpu: float


def main() -> None:
    """Measure and print."""
    options = _options()
    bystanders = Bystanders()
    require_wrk()
    manifest = read_bundle(options.bundle)
    form = raw_form(read_images(options.images, count=options.distinct))
    expected = _expected(options.bundle, manifest, form.bodies[0])
    pythons = {peer.environment: environment(peer.environment, cache=options.cache) for peer in options.servers}
    rounds: dict[str, list[Round]] = {name: [] for name in (OWN, *(peer.name for peer in options.servers))}
    for _ in range(options.rounds):
        for name in rounds:
            port = options.port or free_port()
            command = oodguard_command(options.bundle, port=port, extra=options.serve)
            for peer in options.servers:
                if peer.name == name:
                    script = PEERS / f"{peer.environment}_server.py"
                    command = [str(pythons[peer.environment]), str(script), str(options.bundle.resolve())]
                    command += ["--port", str(port), *peer.arguments]
            # PYTHONPATH would let our environment into a peer's.
            with Server(name, command, port=port, body=form.bodies[0], environment={"PYTHONPATH": ""}) as server:
                _check(server, expected)
                rounds[name].append(_measure(server, form, options))
            found = rounds[name][-1]
            rate, wait = found.saturated.images_per_second, found.at_70.latency(99)
            console.print(f"  {name}: {rate:.1f} img/s, p99 at 70 % {wait:.1f} ms", style="dim")
    rows = summarise(rounds)
    title = f"{options.bundle.name}: medians of {options.rounds} rounds, {options.connections} connections, raw bodies"
    console.print(report_table(title, COLUMNS, rows))
    write_report(options.json, options={**vars(options), **bystanders.report()}, rows=rows)


def _expected(bundle: Path, manifest: Manifest, image: bytes) -> tuple[str, float]:
    graph = ort.InferenceSession(str(bundle / manifest.graph), providers=["CPUExecutionProvider"])
    pixels = load_pixels(image, manifest.preprocessing)[None]
    probabilities = graph.run([PROBABILITIES_NAME], {INPUT_NAME: pixels})[0][0]
    return manifest.classes[int(probabilities.argmax())], float(probabilities.max())


def _check(server: Server, expected: tuple[str, float]) -> None:
    _, body = server.ask()
    answer = json.loads(body)
    answer = answer["predictions"][0] if "predictions" in answer else answer
    label, probability = expected
    if answer["label"] != label or abs(answer["probability"] - probability) > TOLERANCE or not answer["scores"]:
        found = f"{answer['label']} {answer['probability']}"
        raise QualityError(f"{server.name} answers {found} where the graph says {label} {probability}")


def _measure(server: Server, form: Form, options: argparse.Namespace) -> Round:
    run_wrk(form, port=server.port, seconds=2, connections=options.connections)
    before = server.cpu_seconds()
    saturated = run_wrk(form, port=server.port, seconds=options.seconds, connections=options.connections)
    cpu = (server.cpu_seconds() - before) / options.seconds
    due = schedule(LOAD * saturated.images_per_second, options.seconds, arrivals="poisson")
    at_70 = asyncio.run(OpenLoop(form, port=server.port).offer(due, seconds=options.seconds))
    return Round(saturated, at_70, cpu)


def summarise(rounds: dict[str, list[Round]]) -> list[dict[str, object]]:
    """One row a server: medians over its rounds, and how oodguard compares."""
    medians = {name: _medians(found) for name, found in rounds.items()}
    own = medians[OWN]
    rows: list[dict[str, object]] = []
    for name, found in rounds.items():
        rates = [one.saturated.images_per_second for one in found]
        mine = medians[name]
        ratios = (
            {}
            if name == OWN
            else {
                "throughput_ratio": round(own["images_per_second"] / mine["images_per_second"], 2),
                "p99_ratio": round(own["p99_at_70_ms"] / mine["p99_at_70_ms"], 2),
            }
        )
        row = {key: round(value, 1) for key, value in mine.items()}
        rows.append(
            {
                "server": name,
                **row,
                "range": f"{min(rates):.0f}-{max(rates):.0f}",
                "failed": sum(_failed(one) for one in found),
                **ratios,
                "rates": [round(rate, 1) for rate in rates],
                "client_cpu_at_70": round(max(one.at_70.client_cpu for one in found), 3),
                "late_p99_ms": round(max(one.at_70.late_p99_ms for one in found), 1),
            }
        )
    return rows


def _medians(found: Sequence[Round]) -> dict[str, float]:
    columns = {
        "images_per_second": [one.saturated.images_per_second for one in found],
        "p50_ms": [one.saturated.p50_ms for one in found],
        "p99_ms": [one.saturated.p99_ms for one in found],
        "p50_at_70_ms": [one.at_70.latency(50) for one in found],
        "p99_at_70_ms": [one.at_70.latency(99) for one in found],
        "per_cpu_second": [one.saturated.images_per_second / max(one.cpu, 1e-9) for one in found],
    }
    return {name: statistics.median(values) for name, values in columns.items()}


def _failed(one: Round) -> int:
    answered = sum(one.at_70.outcomes.values())
    return one.saturated.non_2xx + one.saturated.broken + answered - one.at_70.accepted


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="oodguard serve beside LitServe, BentoML, MLServer and FastAPI on the same graph and images."
    )
    parser.add_argument("bundle", type=Path, help="bundle folder written by oodguard export")
    parser.add_argument("--images", type=Path, required=True, help="folder of images to send, searched recursively")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--only", help=f"peers, with commas between: {', '.join(peer.name for peer in SERVERS)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often the servers take turns (default: 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each of the two loads (default: 8)")
    parser.add_argument("--connections", type=int, default=16, help="wrk's connections (default: 16)")
    parser.add_argument("--distinct", type=int, default=16, help="how many different images to rotate over")
    parser.add_argument("--port", type=int, help="port for the servers (default: a free one each)")
    parser.add_argument("--serve", default="", help='more options for oodguard serve, as one string: "--max-batch 8"')
    parser.add_argument("--cache", type=Path, default=Path(".oodguard-cache"), help="where peers are installed")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [peer.name for peer in SERVERS]
    if unknown := set(names) - {peer.name for peer in SERVERS}:
        raise InputError(f"--only: no peer is called {', '.join(sorted(unknown))}")
    options.servers = [peer for peer in SERVERS if peer.name in names]
    if options.rounds < 1 or options.seconds < 1:
        raise InputError("--rounds and --seconds must be at least 1")
    return options


if __name__ == "__main__":
    run_script(main)

"""How much of the machine's own speed reaches a caller: images/s over HTTP as a share of the in-process limit.

The limit is the same decode, resize and graph in a tight loop with no server around it, the best of several
organisations of that loop (limit.py). It and the gateway are measured in turn, round after round, so that a machine
whose speed drifts treats both alike; a share is taken within its round.

    python load_tests/gateway_share.py BUNDLE [BUNDLE ...] --images photos/test --json share.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
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
from oodguard.load_tests.limit import Limit, compare
from oodguard.load_tests.load import LoadResult
from oodguard.load_tests.load_client import saturate
from oodguard.load_tests.options import Options
from oodguard.load_tests.request import requests_of

COLUMNS = {
    "bundle": "bundle",
    "body": "body",
    "limit": "limit img/s",
    "gateway": "gateway img/s",
    "share_percent": "share %",
    "share_range": "lowest to highest",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "failed": "failed",
    "client_cpu": "client CPU",
}


def main() -> None:
    """Measure and print."""
    parser = Options(
        "Images a second of oodguard serve as a share of what the same work reaches without a server.",
        seconds=5,
        rounds=5,
    )
    parser.add_bundle(several=True).add_images().add_serve().add_connections()
    parser.add_argument("--bodies", nargs="+", choices=("raw", "multipart"), default=["raw", "multipart"])
    options = parser.parse()
    others = OtherPrograms()
    for bundle in options.bundle:
        read_bundle(bundle)
    images = read_images(options.images, count=options.count)
    rows = [row for bundle in options.bundle for row in _measure(bundle, images, options)]
    title = f"{options.rounds} rounds of {options.seconds:g} s, {options.connections} connections; medians"
    console.print(report_table(title, COLUMNS, rows))
    write_report(options.json, options={**vars(options), **others.report()}, rows=rows)
    if any(row["failed"] for row in rows):
        console.print("requests were refused or broken: these numbers are not the gateway's speed")


def _measure(bundle: Path, images: list[bytes], options: argparse.Namespace) -> list[dict[str, object]]:
    found: dict[str, list[LoadResult]] = {kind: [] for kind in options.bodies}
    with Limit(bundle, images) as limit, Gateway(bundle, *options.serve) as gateway:

        def measure() -> str:
            for kind, results in found.items():
                requests = requests_of(kind, images)
                load = {"connections": options.connections, "seconds": options.seconds}
                results.append(saturate(requests, port=gateway.port, warmup=1, **load))
            return ", ".join(f"{kind} {results[-1].rate:.1f}" for kind, results in found.items())

        comparison = compare(limit, measure, rounds=options.rounds, seconds=options.seconds)
    return [
        {
            "bundle": bundle.name,
            "body": kind,
            **comparison.row("gateway", [one.rate for one in results]),
            **_row(results),
        }
        for kind, results in found.items()
    ]


def _row(results: Sequence[LoadResult]) -> dict[str, object]:
    return {
        "p50_ms": round(statistics.median(result.latency(50) for result in results), 1),
        "p99_ms": round(statistics.median(result.latency(99) for result in results), 1),
        "failed": sum(result.failed for result in results),
        "client_cpu": round(statistics.median(result.client_cpu for result in results), 3),
    }


if __name__ == "__main__":
    run_script(main)

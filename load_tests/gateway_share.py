"""How much of the machine's own speed reaches a caller: images/s over HTTP as a share of the in-process limit.

The limit is the same decode, resize and graph in a tight loop with no server around it, the best of several
organisations of that loop (limit.py). It and the gateway (raw bodies, multipart) are measured in turn, round after
round, so that a machine whose speed drifts treats both alike; a share is taken within its round.

    python load_tests/gateway_share.py BUNDLE [BUNDLE ...] --images photos/test --json share.json
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.load_tests.harness import (
    Bystanders,
    console,
    read_bundle,
    read_images,
    report_table,
    run_script,
    write_report,
)
from oodguard.load_tests.limit import Limit, Organisation, fastest, finalists, organisations, turns
from oodguard.load_tests.serving import Server, free_port, oodguard_command
from oodguard.load_tests.wrk import Form, WrkResult, multipart_form, raw_form, require_wrk, run_wrk

COLUMNS = {
    "bundle": "bundle",
    "body": "body",
    "limit": "limit img/s",
    "gateway": "gateway img/s",
    "share_percent": "share %",
    "share_range": "lowest to highest",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "non_2xx": "non-2xx",
    "client_cpu": "wrk CPU",
}


def main() -> None:
    """Measure and print."""
    options = _options()
    bystanders = Bystanders()
    require_wrk()
    for bundle in options.bundles:
        read_bundle(bundle)
    images = read_images(options.images, count=options.distinct)
    rows = [row for bundle in options.bundles for row in _measure(bundle, images, options)]
    title = f"{options.rounds} rounds of {options.seconds:g} s, {options.connections} connections; medians"
    console.print(report_table(title, COLUMNS, rows))
    write_report(options.json, options={**vars(options), **bystanders.report()}, rows=rows)
    failed = sum(row["non_2xx"] + row["broken"] for row in rows)  # type: ignore[operator]
    if failed:
        console.print(f"{failed} requests were refused or broken: these numbers are not the gateway's speed")


def _measure(bundle: Path, images: list[bytes], options: argparse.Namespace) -> list[dict[str, object]]:
    forms = [form for form in (raw_form(images), multipart_form(images)) if form.name in options.bodies]
    port = options.port or free_port()
    command = oodguard_command(bundle, port=port, extra=options.serve)
    with Limit(bundle, images) as limit:
        chosen = finalists(_look(limit, seconds=max(options.seconds / 2, 1)))
        limits: list[dict[Organisation, float]] = []
        answers: dict[str, list[WrkResult]] = {form.name: [] for form in forms}
        with Server("oodguard", command, port=port, body=images[0]) as server:
            for number in range(options.rounds):
                for what in turns(number, "limit", "gateway"):
                    if what == "limit":
                        limits.append({o: limit.measure(o, seconds=options.seconds) for o in chosen})
                        continue
                    for form in forms:
                        answers[form.name].append(_drive(server, form, options))
                line = ", ".join(f"{name} {found[-1].images_per_second:.1f}" for name, found in answers.items())
                console.print(f"  limit {max(limits[-1].values()):.1f} img/s, {line}", style="dim")
    best = fastest(chosen, limits)
    return [_row(bundle.name, form, best, [found[best] for found in limits], answers[form.name]) for form in forms]


def _look(limit: Limit, *, seconds: float) -> dict[Organisation, float]:
    rates = {organisation: limit.measure(organisation, seconds=seconds) for organisation in organisations()}
    for organisation, rate in rates.items():
        console.print(f"  {organisation}: {rate:.1f} img/s", style="dim")
    return rates


def _drive(server: Server, form: Form, options: argparse.Namespace) -> WrkResult:
    return run_wrk(form, port=server.port, seconds=options.seconds, connections=options.connections, warmup=1)


def _row(
    bundle: str, form: Form, best: Organisation, limits: Sequence[float], found: Sequence[WrkResult]
) -> dict[str, object]:
    shares = [100 * result.images_per_second / limit for result, limit in zip(found, limits, strict=True)]
    return {
        "bundle": bundle,
        "body": form.name,
        "limit": round(statistics.median(limits), 1),
        "limit_organisation": str(best),
        "gateway": round(statistics.median(result.images_per_second for result in found), 1),
        "share_percent": round(statistics.median(shares), 1),
        "share_range": f"{min(shares):.1f} to {max(shares):.1f}",
        "p50_ms": round(statistics.median(result.p50_ms for result in found), 1),
        "p99_ms": round(statistics.median(result.p99_ms for result in found), 1),
        "non_2xx": sum(result.non_2xx for result in found),
        "broken": sum(result.broken for result in found),
        "client_cpu": round(statistics.median(result.client_cpu for result in found), 3),
        "limits": [round(limit, 1) for limit in limits],
        "gateways": [round(result.images_per_second, 1) for result in found],
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Images a second of oodguard serve as a share of what the same work reaches without a server."
    )
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="bundle folder, fp32 or int8")
    parser.add_argument("--images", type=Path, required=True, help="folder of images to send, searched recursively")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--rounds", type=int, default=5, help="how often limit and gateway take turns (default: 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (default: 5)")
    parser.add_argument("--connections", type=int, default=16, help="wrk's connections (default: 16)")
    parser.add_argument("--bodies", default="raw,multipart", help="raw, multipart or both, with a comma between")
    parser.add_argument("--distinct", type=int, default=16, help="how many different images to rotate over")
    parser.add_argument("--port", type=int, help="port for the server (default: a free one)")
    parser.add_argument("--serve", default="", help='more options for oodguard serve, as one string: "--max-batch 8"')
    options = parser.parse_args()
    options.bodies = options.bodies.split(",")
    if unknown := set(options.bodies) - {"raw", "multipart"}:
        raise InputError(f"--bodies takes raw and multipart; got {', '.join(sorted(unknown))}")
    if options.rounds < 1 or options.seconds < 1:
        raise InputError("--rounds and --seconds must be at least 1")
    return options


if __name__ == "__main__":
    run_script(main)

"""Latency under load: what callers wait, and what is refused, at offered loads from a tenth to 1.5 times the capacity.

The capacity is measured with wrk first. Then an open-loop client offers each load: requests leave when they are due,
and latency is counted from that moment.

    python load_tests/latency.py BUNDLE --images photos/test --json latency.json
    python load_tests/latency.py BUNDLE --images photos/test --overload 5
"""

from __future__ import annotations

import argparse
import asyncio
import time
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
from oodguard.load_tests.load import LoadResult, schedule
from oodguard.load_tests.open_loop import TIMEOUT, OpenLoop
from oodguard.load_tests.serving import Server, free_port, oodguard_command
from oodguard.load_tests.wrk import Form, multipart_form, raw_form, require_wrk, run_wrk

SHARES = (10, 30, 50, 70, 90, 100, 120, 150)
COLUMNS = {
    "load_percent": "load %",
    "offered_per_s": "offered/s",
    "accepted_per_s": "accepted/s",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "429": "429",
    "503": "503",
    "504": "504",
    "errors": "errors",
    "late_p99_ms": "sent late p99 ms",
    "client_cpu": "client CPU",
    "server_cpu": "server CPU",
}
PROBES = 20
NORMAL_FACTOR = 3.0
RECOVERY_SECONDS = 60.0


def main() -> None:
    """Measure and print."""
    options = _options()
    bystanders = Bystanders()
    require_wrk()
    read_bundle(options.bundle)
    images = read_images(options.images, count=options.distinct)
    form = (multipart_form if options.body == "multipart" else raw_form)(images)
    port = options.port or free_port()
    command = oodguard_command(options.bundle, port=port, extra=options.serve)
    rows: list[dict[str, object]] = []
    with Server("oodguard", command, port=port, body=images[0]) as server:
        capacity = options.capacity
        if capacity is None:
            found = run_wrk(form, port=port, seconds=options.seconds, connections=options.connections, warmup=2)
            capacity = found.images_per_second
        console.print(f"capacity: {capacity:.1f} images/s; offering {options.arrivals} arrivals, {form.name} bodies")
        for share in options.shares:
            rows.append(_measure(server, form, share=share, capacity=capacity, options=options))
            _print_row(rows[-1])
        title = f"{options.bundle.name}: {options.seconds:g} s a load, client timeout {TIMEOUT:g} s"
        console.print(report_table(title, COLUMNS, rows))
        overload = _overload(server, form, capacity=capacity, options=options) if options.overload else None
    if overload:
        rows.append(overload)
        console.print(
            f"overload of {options.overload:g} times the capacity: {overload['accepted']} accepted, "
            f"{overload['429']} x 429, {overload['503']} x 503, {overload['504']} x 504, {overload['errors']} errors; "
            f"p99 of accepted {overload['p99_ms']} ms; RSS {overload['rss_before_mb']} MB before, "
            f"{overload['rss_end_mb']} MB at its end, {overload['rss_after_mb']} MB after; "
            f"a plain request was answered normally again after {overload['recovery_s']} s"
        )
    measured = {**vars(options), "measured_capacity": round(capacity, 2), **bystanders.report()}
    write_report(options.json, options=measured, rows=rows)


def _measure(
    server: Server, form: Form, *, share: float, capacity: float, options: argparse.Namespace
) -> dict[str, object]:
    rate = capacity * share / 100
    due = schedule(rate, options.seconds, arrivals=options.arrivals)
    cpu, began = server.cpu_seconds(), time.perf_counter()
    result = asyncio.run(OpenLoop(form, port=server.port).offer(due, seconds=options.seconds))
    used = (server.cpu_seconds() - cpu) / (time.perf_counter() - began)
    return {"load_percent": round(share), **summary(result), "server_cpu": round(used, 3)}


def summary(result: LoadResult) -> dict[str, object]:
    """One load as a flat row."""
    return {
        "offered_per_s": round(result.offered, 1),
        "accepted_per_s": round(result.accepted / result.seconds, 1),
        "accepted": result.accepted,
        **{status: result.count(status) for status in ("429", "503", "504")},
        "errors": result.errors,
        "outcomes": result.outcomes,
        **{f"p{share}_ms": round(result.latency(share), 1) for share in (50, 95, 99)},
        "late_p99_ms": round(result.late_p99_ms, 1),
        "client_cpu": round(result.client_cpu, 3),
    }


def _overload(server: Server, form: Form, *, capacity: float, options: argparse.Namespace) -> dict[str, object]:
    """Offer a multiple of the capacity; then time how long until a plain request is answered as before."""
    calm = sorted(_probe(server) for _ in range(PROBES))[PROBES // 2]
    found: dict[str, float] = {}

    async def recover() -> None:
        # In a thread: the requests that are still on their way must go on being read.
        found["rss"] = server.rss()
        found["seconds"] = await asyncio.to_thread(_recovery, server, calm=calm)

    before = server.rss()
    due = schedule(capacity * options.overload, options.seconds, arrivals=options.arrivals)
    result = asyncio.run(OpenLoop(form, port=server.port).offer(due, seconds=options.seconds, after=recover))
    return {
        "load_percent": round(100 * options.overload),
        **summary(result),
        "rss_before_mb": round(before / 1e6),
        "rss_end_mb": round(found["rss"] / 1e6),
        "rss_after_mb": round(server.rss() / 1e6),
        "calm_ms": round(1e3 * calm, 1),
        "recovery_s": round(found["seconds"], 2),
    }


def _probe(server: Server) -> float:
    """Seconds one plain request takes; infinite if it is not answered with 200."""
    began = time.perf_counter()
    try:
        status, _ = server.ask()
    except OSError:
        status = 0
    return time.perf_counter() - began if status == 200 else float("inf")


def _recovery(server: Server, *, calm: float) -> float:
    """Seconds until a plain request takes at most `NORMAL_FACTOR` times what it took before; infinite if none does."""
    began = time.perf_counter()
    while time.perf_counter() - began < RECOVERY_SECONDS:
        sent = time.perf_counter()
        if _probe(server) <= NORMAL_FACTOR * calm:
            return time.perf_counter() - began
        time.sleep(max(0.05 - (time.perf_counter() - sent), 0))
    return float("inf")


def _print_row(row: dict[str, object]) -> None:
    console.print(f"  {row['load_percent']} %: p99 {row['p99_ms']} ms, {row['accepted']} accepted", style="dim")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Latency of oodguard serve against the offered load, by an open-loop client on this machine."
    )
    parser.add_argument("bundle", type=Path, help="bundle folder written by oodguard export")
    parser.add_argument("--images", type=Path, required=True, help="folder of images to send, searched recursively")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load is offered (default: 10)")
    parser.add_argument(
        "--shares", default=",".join(map(str, SHARES)), help="loads in percent of the capacity, with commas between"
    )
    parser.add_argument(
        "--arrivals", choices=("poisson", "constant"), default="poisson", help="how arrivals are spaced"
    )
    parser.add_argument("--capacity", type=float, help="images/s to take as the capacity instead of measuring it")
    parser.add_argument("--overload", type=float, help="at the end, offer this multiple of the capacity, e.g. 5")
    parser.add_argument("--body", choices=("raw", "multipart"), default="raw", help="how images are sent")
    parser.add_argument("--connections", type=int, default=16, help="wrk's connections for the capacity (default: 16)")
    parser.add_argument("--distinct", type=int, default=16, help="how many different images to rotate over")
    parser.add_argument("--port", type=int, help="port for the server (default: a free one)")
    parser.add_argument("--serve", default="", help='more options for oodguard serve, as one string: "--max-batch 8"')
    options = parser.parse_args()
    try:
        options.shares = [float(share) for share in options.shares.split(",") if share]
    except ValueError:
        raise InputError(f"--shares takes numbers with commas between; got {options.shares!r}") from None
    if any(share <= 0 for share in options.shares) or options.seconds < 1:
        raise InputError("--shares must be above 0, and --seconds at least 1")
    return options


if __name__ == "__main__":
    run_script(main)

"""Latency under load: what callers wait, and what is refused, at offered loads from a tenth to 1.5 times the capacity.

The capacity is what 16 connections get that never pause. Then each load is offered at a fixed rate: requests leave when
they are due, and latency counts from that moment.

    python load_tests/latency.py BUNDLE --images photos/test --json latency.json
    python load_tests/latency.py BUNDLE --images photos/test --overload 5
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence

import httpx

from oodguard.core.errors import InputError
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
from oodguard.load_tests.load_client import TIMEOUT, LoadClient, saturate
from oodguard.load_tests.options import Options
from oodguard.load_tests.request import Request, requests_of

SHARES = (10.0, 30.0, 50.0, 70.0, 90.0, 100.0, 120.0, 150.0)
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
    others = OtherPrograms()
    read_bundle(options.bundle)
    requests = requests_of(options.body, read_images(options.images, count=options.count))
    rows: list[dict[str, object]] = []
    with Gateway(options.bundle, *options.serve) as gateway:
        capacity = options.capacity
        if capacity is None:
            load = {"connections": options.connections, "seconds": options.seconds}
            capacity = saturate(requests, port=gateway.port, warmup=2, **load).rate
        console.print(f"capacity: {capacity:.1f} images/s; offering {options.arrivals} arrivals, {options.body} bodies")
        for share in options.shares:
            row = _measure(gateway, requests, share=share, capacity=capacity, options=options)
            console.print(f"  {share:g} %: p99 {row['p99_ms']} ms, {row['accepted']} accepted", style="dim")
            rows.append(row)
        title = f"{options.bundle.name}: {options.seconds:g} s a load, client timeout {TIMEOUT:g} s"
        console.print(report_table(title, COLUMNS, rows))
        if options.overload:
            row = _overload(gateway, requests, capacity=capacity, options=options)
            rows.append(row)
            console.print(
                f"overload of {row['load_percent']} % of the capacity: {row['accepted']} accepted, {row['429']} x 429, "
                f"{row['503']} x 503, {row['504']} x 504, {row['errors']} errors; p99 of accepted {row['p99_ms']} ms; "
                f"RSS {row['rss_before_mb']} MB before, {row['rss_end_mb']} MB at its end, {row['rss_after_mb']} MB "
                f"after; a plain request was answered normally again after {row['recovery_s']} s"
            )
    measured = {**vars(options), "measured_capacity": round(capacity, 2), **others.report()}
    write_report(options.json, options=measured, rows=rows)


def _measure(
    gateway: Gateway, requests: Sequence[Request], *, share: float, capacity: float, options: argparse.Namespace
) -> dict[str, object]:
    due = schedule(capacity * share / 100, options.seconds, arrivals=options.arrivals)
    cpu, began = gateway.cpu_seconds(), time.perf_counter()
    result = asyncio.run(LoadClient(requests, port=gateway.port).offer(due, seconds=options.seconds))
    used = (gateway.cpu_seconds() - cpu) / (time.perf_counter() - began)
    return {"load_percent": round(share), **summary(result), "server_cpu": round(used, 3)}


def summary(result: LoadResult) -> dict[str, object]:
    """One load as a flat row."""
    return {
        "offered_per_s": round(result.offered, 1),
        "accepted_per_s": round(result.rate, 1),
        "accepted": result.accepted,
        **{status: result.count(status) for status in ("429", "503", "504")},
        "errors": result.errors,
        "outcomes": result.outcomes,
        **{f"p{share}_ms": round(result.latency(share), 1) for share in (50, 95, 99)},
        "late_p99_ms": round(result.late_p99_ms, 1),
        "client_cpu": round(result.client_cpu, 3),
    }


def _overload(
    gateway: Gateway, requests: Sequence[Request], *, capacity: float, options: argparse.Namespace
) -> dict[str, object]:
    """Offer a multiple of the capacity; then time how long until a plain request is answered as before."""
    calm = sorted(_probe(gateway, requests[0]) for _ in range(PROBES))[PROBES // 2]
    found: dict[str, float] = {}

    async def recover() -> None:
        # In a thread: the requests that are still on their way must go on being read.
        found["rss"] = gateway.rss()
        found["seconds"] = await asyncio.to_thread(_recovery, gateway, requests[0], calm=calm)

    before = gateway.rss()
    due = schedule(capacity * options.overload, options.seconds, arrivals=options.arrivals)
    client = LoadClient(requests, port=gateway.port)
    result = asyncio.run(client.offer(due, seconds=options.seconds, after=recover))
    return {
        "load_percent": round(100 * options.overload),
        **summary(result),
        "rss_before_mb": round(before / 1e6),
        "rss_end_mb": round(found["rss"] / 1e6),
        "rss_after_mb": round(gateway.rss() / 1e6),
        "calm_ms": round(1e3 * calm, 1),
        "recovery_s": round(found["seconds"], 2),
    }


def _probe(gateway: Gateway, request: Request) -> float:
    """Seconds that one plain request takes over a connection of its own; infinite if it is not answered with 200."""
    began = time.perf_counter()
    try:
        answer = httpx.post(
            f"{gateway.url}{request.path}", content=request.content, headers=dict(request.headers), timeout=30
        )
    except httpx.TransportError:
        return float("inf")
    return time.perf_counter() - began if answer.status_code == 200 else float("inf")


def _recovery(gateway: Gateway, request: Request, *, calm: float) -> float:
    """Seconds until a plain request takes at most `NORMAL_FACTOR` times what it took before; infinite if none does."""
    began = time.perf_counter()
    while time.perf_counter() - began < RECOVERY_SECONDS:
        sent = time.perf_counter()
        if _probe(gateway, request) <= NORMAL_FACTOR * calm:
            return time.perf_counter() - began
        time.sleep(max(0.05 - (time.perf_counter() - sent), 0))
    return float("inf")


def _options() -> argparse.Namespace:
    parser = Options("Latency of oodguard serve against the offered load.", seconds=10)
    parser.add_bundle().add_images().add_serve().add_connections()
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="loads in percent of the capacity")
    parser.add_argument(
        "--arrivals", choices=("poisson", "constant"), default="poisson", help="how arrivals are spaced"
    )
    parser.add_argument("--capacity", type=float, help="images/s to take as the capacity instead of measuring it")
    parser.add_argument("--overload", type=float, help="at the end, offer this multiple of the capacity, e.g. 5")
    parser.add_argument("--body", choices=("raw", "multipart"), default="raw", help="how images are sent")
    options = parser.parse()
    if any(share <= 0 for share in options.shares):
        raise InputError("--shares must be above 0")
    return options


if __name__ == "__main__":
    run_script(main)

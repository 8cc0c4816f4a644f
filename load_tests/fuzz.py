"""Send a running server hostile requests and prove that it shrugs: no 5xx, no hang, no leak.

    oodguard serve bundles/photos &
    python load_tests/fuzz.py --count 100000

Exits with 1, and says which request did it (by seed and number), at the first answer that is a 5xx, takes longer than
the time limit, or is not an answer at all; and when memory or the queue have not come back at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from oodguard.load_tests.hostile import Hostile, requests

ALLOWED = {200, 400, 413, 415, 422}


class Failure(Exception):
    """The server did what it must never do."""


async def fuzz(url: str, *, seed: int, count: int, concurrency: int, limit: float, bar: Progress) -> Counter[int]:
    """Send `count` requests; how often each status came back. Raises `Failure`."""
    statuses: Counter[int] = Counter()
    source = enumerate(requests(seed))
    task = bar.add_task("hostile requests", total=count)
    bounds = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=limit, limits=bounds) as client:
        ready = (await client.get("/health/ready")).json()
        name = ready["model"]["name"]

        async def send(number: int, item: Hostile) -> None:
            headers = {"content-type": item.content_type} if item.content_type else {}
            try:
                answer = await client.post(item.path.format(name=name), content=item.body, headers=headers)
            except httpx.HTTPError as error:
                raise Failure(f"request {number} of seed {seed}: {error!r}") from None
            if answer.status_code not in ALLOWED or not isinstance(answer.json(), dict):
                raise Failure(f"request {number} of seed {seed}: {answer.status_code} {answer.text[:300]}")
            statuses[answer.status_code] += 1
            bar.advance(task)

        async def worker() -> None:
            for number, item in source:
                if number >= count:
                    return
                await send(number, item)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
        if (await client.get("/health/ready")).status_code != 200:
            raise Failure("the server is not ready any more")
    return statuses


def resident(url: str) -> tuple[int, float]:
    """The process that listens on the URL, and its resident memory in MB."""
    port = httpx.URL(url).port
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if listens and connection.pid:
            return connection.pid, psutil.Process(connection.pid).memory_info().rss / 1e6
    raise Failure(f"no process of this machine listens on {url}")


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description="Fuzz a running oodguard server on this machine.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds one answer may take")
    parser.add_argument("--growth", type=float, default=200.0, help="MB that memory may have grown after warming up")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    console = Console()
    started = time.monotonic()
    try:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            run = {"concurrency": given.concurrency, "limit": given.limit, "bar": bar}
            warm = min(2000, given.count // 10)
            statuses = asyncio.run(fuzz(given.url, seed=given.seed + 10_000, count=warm, **run))
            pid, before = resident(given.url)
            statuses += asyncio.run(fuzz(given.url, seed=given.seed, count=given.count, **run))
            again, after = resident(given.url)
        if pid != again:
            raise Failure("the server process is another one than at the start")
        if after - before > given.growth:
            raise Failure(f"memory grew from {before:.0f} to {after:.0f} MB")
    except ExceptionGroup as group:
        console.print(f"[bold red]failed:[/] {group.exceptions[0]}")
        return 1
    except (Failure, httpx.HTTPError) as failure:
        console.print(f"[bold red]failed:[/] {failure}")
        return 1
    seconds = time.monotonic() - started
    table = Table(title=f"{statuses.total():,} hostile requests in {seconds:.0f} s, seed {given.seed}")
    table.add_column("status")
    table.add_column("answers", justify="right")
    for status, number in sorted(statuses.items()):
        table.add_row(str(status), f"{number:,}")
    console.print(table)
    console.print(f"no 5xx, no hang, no crash; resident memory {before:.0f} -> {after:.0f} MB")
    if given.json:
        report = {"statuses": statuses, "seconds": seconds, "rss_mb": [before, after], "seed": given.seed}
        given.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

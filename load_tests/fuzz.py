"""Hostile requests leave no mark on a server: no 5xx, no late or missing answer, no leak.

    python load_tests/fuzz.py BUNDLE --count 100000

Stops at the first answer that is a 5xx, takes longer than the time limit or is no answer at all, and names the request
(by seed and number). Fails, too, where memory has grown at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import httpx
from rich.console import Console
from rich.progress import Progress

from oodguard.core.errors import QualityError
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.harness import console, report_table, run_script, write_report
from oodguard.load_tests.hostile import Hostile, requests
from oodguard.load_tests.options import Options

ALLOWED = {200, 400, 413, 415, 422}


async def fuzz(url: str, *, seed: int, count: int, concurrency: int, limit: float, bar: Progress) -> Counter[int]:
    """Send `count` requests; how often each status came back. Raises `QualityError`."""
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
                raise QualityError(f"request {number} of seed {seed}: {error!r}") from None
            if answer.status_code not in ALLOWED or not isinstance(answer.json(), dict):
                raise QualityError(f"request {number} of seed {seed}: {answer.status_code} {answer.text[:300]}")
            statuses[answer.status_code] += 1
            bar.advance(task)

        async def worker() -> None:
            for number, item in source:
                if number >= count:
                    return
                await send(number, item)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(worker())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if (await client.get("/health/ready")).status_code != 200:
            raise QualityError("the server is not ready any more")
    return statuses


def main() -> None:
    """Run and report."""
    parser = Options("Send hostile requests to oodguard serve.").add_bundle().add_serve()
    parser.add_argument("--count", type=int, default=100_000, help="how many (default: 100,000)")
    parser.add_argument("--seed", type=int, default=1, help="which (default: 1)")
    parser.add_argument("--concurrency", type=int, default=16, help="how many at once (default: 16)")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds that one answer may take (default: 20)")
    parser.add_argument("--max-growth", type=float, default=200.0, help="MB that memory may grow (default: 200)")
    options = parser.parse()
    started = time.monotonic()
    with Gateway(options.bundle, *options.serve) as gateway, Progress(console=Console(stderr=True)) as bar:
        run = {"concurrency": options.concurrency, "limit": options.limit, "bar": bar}
        warm = min(2000, options.count // 10)
        statuses = asyncio.run(fuzz(gateway.url, seed=options.seed + 10_000, count=warm, **run))
        before = gateway.rss() / 1e6
        statuses += asyncio.run(fuzz(gateway.url, seed=options.seed, count=options.count, **run))
        after = gateway.rss() / 1e6
    if after - before > options.max_growth:
        raise QualityError(f"memory grew from {before:.0f} to {after:.0f} MB")
    rows: list[dict[str, object]] = [{"status": status, "answers": n} for status, n in sorted(statuses.items())]
    title = f"{statuses.total():,} hostile requests in {time.monotonic() - started:.0f} s, seed {options.seed}"
    console.print(report_table(title, {"status": "status", "answers": "answers"}, rows))
    console.print(f"no 5xx, no late answer, no crash; resident memory {before:.0f} -> {after:.0f} MB")
    write_report(options.json, options={**vars(options), "rss_mb": (before, after)}, rows=rows)


if __name__ == "__main__":
    run_script(main)

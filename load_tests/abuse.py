"""One caller abuses the server while another one behaves: what reaches the honest caller, and what the server keeps.

    python load_tests/abuse.py BUNDLE --images photos/test --seconds 60
    python load_tests/abuse.py BUNDLE --images photos/test --seconds 5 --only hog trailers

For each kind of abuse a server of its own is started. The honest caller sends a photo every 100 ms, first alone and
then beside the abuser, which runs in a process of its own and calls from another address. A last line names what was
missed of: every honest photo answered, their p99 at most three times that without the abuser, 300 MB above the start,
liveness within 100 ms, readiness true. Ends with 1 where an honest photo was not answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

import oodguard.load_tests.abusers_bodies
import oodguard.load_tests.abusers_files
import oodguard.load_tests.abusers_wire  # noqa: F401 (registers its kinds)
from oodguard.core.errors import InputError
from oodguard.load_tests.abusers import ABUSERS, ADDRESS, Abuser, Over, Target
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.harness import console, percentile, read_images, report_table, run_script, write_report
from oodguard.load_tests.options import Options
from oodguard.load_tests.process import HOST, answers, wait_until

PAUSE = 0.1
# An honest photo that is not answered within this is lost.
PATIENCE = 10.0
LOOK = 0.05
COLUMNS = {
    "kind": "kind",
    "answered_percent": "honest answered %",
    "p99_alone_ms": "p99 alone ms",
    "p99_ms": "p99 ms",
    "times": "times",
    "memory_mb": "peak MB above start",
    "kept_mb": "MB kept",
    "live_ms": "slowest liveness ms",
    "untrue": "untrue readiness",
    "stop_s": "SIGTERM to end s",
}
# What each kind should keep to.
GOALS: dict[str, Callable[[float], bool]] = {
    "answered_percent": lambda percent: percent == 100.0,
    "times": lambda times: times <= 3,
    "memory_mb": lambda megabytes: megabytes <= 300,
    "live_ms": lambda milliseconds: milliseconds <= 100,
    "untrue": lambda looks: looks == 0,
}
KEY = "honest"
# Within this an abuser has called, if it ever calls.
BEGIN_SECONDS = 60.0


@dataclass
class Honest:
    """What came back to the caller who sends a photo every 100 ms: when each failed, and how long each took."""

    key: str = ""
    sent: int = 0
    seconds: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    async def call(self, url: str, photo: bytes, *, seconds: float) -> None:
        """Send at the due times, whether or not earlier photos were answered."""
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=1)
        async with httpx.AsyncClient(verify=False, timeout=PATIENCE, limits=limits) as client:
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for number in range(round(seconds / PAUSE)):
                    await asyncio.sleep(max(0.0, began + number * PAUSE - time.monotonic()))
                    group.create_task(self._one(client, url, photo))

    async def _one(self, client: httpx.AsyncClient, url: str, photo: bytes) -> None:
        due = time.monotonic()
        self.sent += 1
        try:
            headers = {"content-type": "image/jpeg", **({"x-api-key": self.key} if self.key else {})}
            answer = await client.post(f"{url}/predict", content=photo, headers=headers)
            outcome = str(answer.status_code)
        except httpx.TransportError as error:
            outcome = type(error).__name__
        self.outcomes[outcome] += 1
        if outcome == "200":
            self.seconds.append(time.monotonic() - due)
        else:
            self.failed.append(due)

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of what answered photos took."""
        return round(1e3 * percentile(self.seconds, 99), 1)

    @property
    def share(self) -> float:
        """How many percent were answered."""
        return round(100 * len(self.seconds) / max(1, self.sent), 1)


@dataclass
class Watch:
    """Looks at memory, liveness and readiness of a server from now on, in a thread of its own."""

    gateway: Gateway
    peak: int = 0
    slowest: float = 0.0
    red: list[float] = field(default_factory=list)

    def look(self, over: threading.Event) -> None:
        """Look until it is over."""
        with httpx.Client(timeout=PATIENCE) as client:
            while not over.wait(LOOK):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.peak = max(self.peak, self.gateway.rss())
                began = time.monotonic()
                for path in ("live", "ready"):
                    asked = time.monotonic()
                    try:
                        good = client.get(f"{self.gateway.private}/health/{path}").status_code == 200
                    except httpx.TransportError:
                        good = False
                    if path == "live":
                        self.slowest = max(self.slowest, time.monotonic() - asked)
                    elif not good:
                        self.red.append(began)

    def untrue(self, honest: Honest) -> int:
        """Photos that failed within a second in which readiness was green, and red looks while all were answered."""
        lied = sum(all(abs(due - red) > 1 for red in self.red) for due in honest.failed)
        return lied + sum(all(abs(due - red) > 1 for due in honest.failed) for red in self.red)


def measure(abuser: Abuser, options: argparse.Namespace, photo: bytes) -> dict[str, object]:
    """One kind of abuse as a row of the table."""
    with contextlib.ExitStack() as stack:
        flags = [*abuser.flags, *options.serve]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # A copy: an abuser may write into it.
        bundle = Path(shutil.copytree(options.bundle, folder / "bundle"))
        if abuser.tls:
            flags += _certificate(folder)
        if abuser.keyed:
            flags += ["--key-hashes", f"honest:{hashlib.sha256(KEY.encode()).hexdigest()}"]
        gateway = Gateway(bundle, *flags)
        gateway.start(wait=False)
        stack.callback(gateway.stop)
        gateway.wait_ready(lambda: gateway.is_listening() and answers(f"{gateway.private}/health/ready"))
        gateway.wait_ready(lambda: answers(f"{gateway.url}/health/ready"))
        key = KEY if abuser.keyed else ""
        alone, honest, watch = Honest(key), Honest(key), Watch(gateway)
        asyncio.run(alone.call(gateway.url, photo, seconds=max(2.0, options.seconds / 3)))
        before = gateway.rss()
        context = multiprocessing.get_context("spawn")
        over, ended = context.Event(), threading.Event()
        private = int(gateway.private.rpartition(":")[2])
        target = Target(HOST, gateway.port, photo, tls=abuser.tls, private=private, bundle=bundle)
        process = context.Process(target=_abuse, args=(abuser.name, target, over), daemon=True)
        watcher = threading.Thread(target=watch.look, args=(ended,))
        process.start()
        if abuser.calls:
            _wait_for_abuse(gateway)
        watcher.start()
        try:
            asyncio.run(honest.call(gateway.url, photo, seconds=options.seconds))
            ended.set()
            watcher.join()
            kept = gateway.rss()
            began = time.monotonic()
            gateway.stop()
            stopped = time.monotonic() - began
        finally:
            ended.set()
            over.set()
            process.join(1)
            process.kill()
    return {
        "kind": abuser.name,
        "answered_percent": honest.share,
        "p99_alone_ms": alone.p99_ms,
        "p99_ms": honest.p99_ms,
        "times": round(honest.p99_ms / alone.p99_ms, 1),
        "memory_mb": round((watch.peak - before) / 1e6),
        "kept_mb": round((kept - before) / 1e6),
        "live_ms": round(1e3 * watch.slowest, 1),
        "untrue": watch.untrue(honest),
        "stop_s": round(stopped, 1),
        "outcomes": dict(honest.outcomes),
    }


def missed(rows: Sequence[Mapping[str, object]]) -> str:
    """What was missed of the goals, in one line."""
    found = [
        f"{row['kind']} ({COLUMNS[column]} {row[column]})"
        for row in rows
        for column, holds in GOALS.items()
        if not holds(float(str(row[column])))
    ]
    return f"missed: {', '.join(found)}" if found else "every kind kept to every goal"


def _wait_for_abuse(gateway: Gateway) -> None:
    """Wait until the abuser has called, once it has made what it sends; one that writes files never calls."""
    server = psutil.Process(gateway.process.pid)
    with contextlib.suppress(TimeoutError):
        wait_until(
            lambda: any(one.raddr and one.raddr.ip == ADDRESS for one in server.net_connections()), BEGIN_SECONDS
        )


def _abuse(name: str, target: Target, over: Over) -> None:
    """What the abuser's process runs: as if on another machine, which takes no processor from this one."""
    os.nice(3)
    ABUSERS[name].run(target, over)


def _certificate(folder: Path) -> list[str]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return ["--tls-cert", str(cert), "--tls-key", str(key)]


def main() -> None:
    """Measure every kind, print, and end with 1 where an honest photo was not answered."""
    parser = Options("What abuse costs an honest caller.", seconds=60).add_bundle().add_images(count=1).add_serve()
    parser.add_argument("--only", nargs="+", metavar="KIND", help=f"kinds of abuse: {', '.join(ABUSERS)}")
    options = parser.parse()
    unknown = sorted(set(options.only or ()) - set(ABUSERS))
    if unknown:
        raise InputError(f"--only {unknown[0]} is no kind of abuse; there are {', '.join(ABUSERS)}")
    photo = read_images(options.images, count=1)[0]
    rows = []
    for name in options.only or ABUSERS:
        rows.append(measure(ABUSERS[name], options, photo))
        console.print(f"  {name}: {ABUSERS[name].about}; {rows[-1]['outcomes']}", style="dim")
    title = f"{options.bundle.name}: {options.seconds:g} s of each kind of abuse"
    console.print(report_table(title, COLUMNS, rows))
    console.print(missed(rows))
    write_report(options.json, options=vars(options), rows=rows)
    sys.exit(0 if all(row["answered_percent"] == 100.0 for row in rows) else 1)


if __name__ == "__main__":
    run_script(main)

"""Restarts cost no client a request: steady load through HAProxy while the servers behind it are replaced.

    apt-get install haproxy
    python load_tests/restarts.py BUNDLE --images photos/test --restarts 10
    python load_tests/restarts.py BUNDLE --images photos/test --restarts 1000 --within 7200

Two servers stand behind the proxy, which watches /health/ready. One after the other gets SIGTERM, must exit with 0, and
is started again, as often as asked or until the time is over; the last line says how often that was. Ends with 1 when
any request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from oodguard.core.errors import EnvironmentProblem
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.harness import console, read_images, run_script, write_report
from oodguard.load_tests.load import LoadResult
from oodguard.load_tests.load_client import LoadClient
from oodguard.load_tests.options import Options
from oodguard.load_tests.process import HOST, Process, answers, free_ports, wait_until
from oodguard.load_tests.request import requests_of

# Longer than the proxy takes to notice that a server is not ready any more.
DRAIN_DELAY = "0.6"
# Restarts between two lines of progress.
EACH = 50
CONFIG = """
global
    log stderr local0 emerg
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout check 2s
    retries 3
    option redispatch
frontend all
    bind 127.0.0.1:{front}
    stats enable
    stats uri /proxy-state
    default_backend guards
backend guards
    balance roundrobin
    option httpchk GET /health/ready
    default-server check inter 100ms fall 1 rise 1
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
"""


def start_proxy(folder: Path, *, front: int, behind: tuple[int, int]) -> Process:
    """HAProxy on port `front` before two ports. Raises `EnvironmentProblem`."""
    binary = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin") or shutil.which("haproxy")
    if binary is None:
        raise EnvironmentProblem("this test needs haproxy; install it with apt-get install haproxy")
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG.format(front=front, a=behind[0], b=behind[1]))
    return Process("haproxy", [binary, "-f", config], ready=lambda: answers(f"http://{HOST}:{front}/health/ready"))


def sees_both(front: int) -> bool:
    """Whether the proxy knows that both servers are up: only then may the next one go."""
    text = httpx.get(f"http://{HOST}:{front}/proxy-state;csv", timeout=10).text.removeprefix("# ")
    rows = csv.DictReader(text.splitlines())
    up = [row["pxname"] == "guards" and row["svname"] in "ab" and row["status"] == "UP" for row in rows]
    return up.count(True) == 2


async def restart(
    servers: list[Gateway], client: LoadClient, options: argparse.Namespace, *, front: int
) -> tuple[LoadResult, list[int]]:
    """Replace the servers in turn under load; what came of the load, and the servers' exit codes."""
    codes: list[int] = []

    def replace() -> None:
        over = time.monotonic() + options.within
        for number in range(options.restarts):
            server = servers[number % 2]
            codes.append(server.stop())
            server.start()
            wait_until(lambda: sees_both(front))
            if number % EACH == EACH - 1:
                console.print(f"  {number + 1} restarts", style="dim")
            if time.monotonic() > over:
                return

    replacing = asyncio.create_task(asyncio.to_thread(replace))
    result = await client.saturate(connections=options.connections, until=replacing)
    return result, codes


def main() -> None:
    """Restart, print, and end with 1 where a request failed."""
    parser = Options("Restart servers behind a proxy under steady load.").add_bundle().add_images(count=1).add_serve()
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds after which no more are begun")
    parser.add_argument("--restarts", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--connections", type=int, default=4, help="connections that call at once (default: 4)")
    options = parser.parse()
    requests = requests_of("raw", read_images(options.images, count=options.count))
    front, *ports = free_ports(3)
    flags = ["--drain-delay", DRAIN_DELAY, *options.serve]
    servers = [Gateway(options.bundle, *flags, "--port", str(port)) for port in ports]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for server in servers:
            stack.enter_context(server)
        stack.enter_context(start_proxy(folder, front=front, behind=(ports[0], ports[1])))
        result, codes = asyncio.run(restart(servers, LoadClient(requests, port=front), options, front=front))
    console.print(
        f"{sum(result.outcomes.values()):,} requests over {len(codes)} restarts: {result.failed} failed; "
        f"exit codes {sorted(set(codes))}; {result.outcomes}"
    )
    write_report(options.json, options=vars(options), rows=[{"outcomes": result.outcomes, "exit_codes": codes}])
    sys.exit(0 if not result.failed and set(codes) == {0} else 1)


if __name__ == "__main__":
    run_script(main)

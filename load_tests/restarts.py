"""Prove that restarts cost nobody a request: steady load through HAProxy while the servers behind it are replaced.

    apt-get install haproxy
    python load_tests/restarts.py bundles/photos --images photos/test --restarts 10

Two server processes stand behind the proxy, which watches /health/ready. One after the other gets SIGTERM, must exit
with 0, and is started again. Exits with 1 when any request failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
from rich.console import Console

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
    default_backend guards
backend guards
    balance roundrobin
    option httpchk GET /health/ready
    default-server check inter 100ms fall 1 rise 1
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
"""


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(bundle: Path, port: int) -> subprocess.Popen[bytes]:
    """A server process that is ready."""
    command = [sys.executable, "-m", "oodguard.cli", "serve", str(bundle), "--port", str(port), "--admin-port", "0"]
    settings = {"OODGUARD_SERVE_DRAIN_DELAY": "1", "OODGUARD_SERVE_LOG_LEVEL": "error"}
    process = subprocess.Popen([*command], stdout=subprocess.DEVNULL, env=os.environ | settings)
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the server on port {port} did not start")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200:
                return process
        time.sleep(0.1)
    process.kill()
    raise SystemExit(f"the server on port {port} did not become ready within a minute")


@contextlib.contextmanager
def proxy(front: int, a: int, b: int) -> Iterator[None]:
    """HAProxy in front of two ports."""
    binary = shutil.which("haproxy") or "/usr/sbin/haproxy"
    if not Path(binary).is_file():
        raise SystemExit("this proof needs haproxy (apt-get install haproxy)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "haproxy.cfg"
        path.write_text(CONFIG.format(front=front, a=a, b=b))
        process = subprocess.Popen([binary, "-f", str(path)], stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)


def load(url: str, image: bytes, stop: threading.Event, outcomes: Counter[str]) -> None:
    """Requests one after the other until told to stop."""
    with httpx.Client(timeout=30) as client:
        while not stop.is_set():
            try:
                answer = client.post(f"{url}/predict", content=image, headers={"content-type": "image/jpeg"})
                outcomes[str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                outcomes[type(error).__name__] += 1


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description="Restart servers behind a proxy under steady load.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, help="folder of photos; default: the bundle's golden images")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    images = sorted((given.images or given.bundle / "golden").rglob("*.jpg"))
    if not images:
        parser.error("there is no .jpg photo to send")
    front, *ports = (free_port() for _ in range(3))
    servers: list[subprocess.Popen[bytes]] = []
    outcomes: Counter[str] = Counter()
    stop = threading.Event()
    codes = []
    try:
        servers += [start(given.bundle, port) for port in ports]
        with proxy(front, *ports):
            time.sleep(1)
            url = f"http://127.0.0.1:{front}"
            image = images[0].read_bytes()
            threads = [threading.Thread(target=load, args=(url, image, stop, outcomes)) for _ in range(given.clients)]
            for thread in threads:
                thread.start()
            for number in range(given.restarts):
                place = number % 2
                servers[place].send_signal(signal.SIGTERM)
                codes.append(servers[place].wait(60))
                servers[place] = start(given.bundle, ports[place])
                time.sleep(0.5)
            stop.set()
            for thread in threads:
                thread.join()
    finally:
        stop.set()
        for server in servers:
            server.kill()
            server.wait()
    failed = outcomes.total() - outcomes["200"]
    Console().print(
        f"{outcomes.total():,} requests over {given.restarts} restarts: {failed} failed; "
        f"exit codes {sorted(set(codes))}; {dict(outcomes)}"
    )
    if given.json:
        given.json.write_text(json.dumps({"outcomes": outcomes, "exit_codes": codes}, indent=1))
    return 0 if not failed and set(codes) == {0} else 1


if __name__ == "__main__":
    sys.exit(main())

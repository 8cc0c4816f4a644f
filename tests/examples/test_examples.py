"""Every example as a reader would run it, against a real server where it asks one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from oodguard.cli.main import run as oodguard
from oodguard.clients import Client
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.process import HOST, Process, answers, free_ports, wait_until
from oodguard.server.keys import digest, new_key

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = new_key()
WAIT = 60


@pytest.fixture(scope="module")
def gateway(bundle: Path) -> Iterator[Gateway]:
    with Gateway(bundle) as running:
        yield running


@pytest.fixture(scope="module")
def inside(gateway: Gateway, photos: Path) -> Path:
    """A photo that the guard knows."""
    paths = sorted((photos / "test" / "jade").iterdir())
    with Client(gateway.url) as client:
        return next(path for path in paths if not client.predict([path]).predictions[0].is_ood)


@pytest.fixture
def outside(strangers: Path) -> Path:
    """An image that it does not."""
    return sorted(strangers.rglob("*.png"))[0]


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A file that is no image, with a name that shells take apart."""
    path = tmp_path / "no image; at all.jpg"
    path.write_bytes(b"junk")
    return path


def example(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it did; it must not end in a traceback."""
    ran = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT,
        env={**os.environ, **environment},
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran


def test_curl(gateway: Gateway, inside: Path, outside: Path, bad: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("no curl")
    script = EXAMPLES / "predict.sh"
    ran = example(script, gateway.url, inside, bad, outside)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert [(found["index"], found["is_ood"]) for found in answer["predictions"]] == [(0, False), (2, True)]
    assert [(error["index"], error["file"]) for error in answer["errors"]] == [(1, bad.name)]
    refused = example(script, gateway.url, bad)
    assert (refused.returncode, json.loads(refused.stdout)["code"]) == (22, "unsupported_type")
    assert example(script, gateway.url).returncode == 2


def test_embedded(bundle: Path, inside: Path, outside: Path, bad: Path, tmp_path: Path) -> None:
    ran = example(sys.executable, EXAMPLES / "embedded.py", bundle, inside, outside, bad)
    known, unknown, failed = ran.stdout.splitlines()
    assert known.startswith(f"{inside}: jade (")
    assert unknown.startswith(f"{outside}: look at it (")
    assert failed.startswith(f"{bad}: cannot be judged: not an image of a supported type")
    assert ran.returncode == 1
    absent = example(sys.executable, EXAMPLES / "embedded.py", tmp_path, inside)
    assert (absent.returncode, absent.stdout) == (1, "")
    assert absent.stderr.startswith("error: ")


def test_python_client(gateway: Gateway, inside: Path, outside: Path, bad: Path) -> None:
    ran = example(sys.executable, EXAMPLES / "predict.py", gateway.url, inside, outside, bad)
    known, unknown, failed = ran.stdout.splitlines()
    assert known.startswith(f"{inside}: jade (")
    assert unknown.startswith(f"{outside}: look at it (")
    assert failed.startswith(f"{bad}: cannot be judged: ")
    assert ran.returncode == 1
    absent = example(sys.executable, EXAMPLES / "predict.py", "http://127.0.0.1:9", inside)
    assert (absent.returncode, absent.stdout) == (1, "")
    assert absent.stderr.startswith("error: ")


def test_javascript(gateway: Gateway, inside: Path, outside: Path, bad: Path) -> None:
    if not shutil.which("node"):
        pytest.skip("no node")
    script = EXAMPLES / "predict.mjs"
    ran = example("node", script, gateway.url, inside, outside, bad)
    assert ran.returncode == 0, ran.stderr
    known, unknown = ran.stdout.splitlines()
    assert known.startswith(f"{inside}: jade (")
    assert unknown.startswith(f"{outside}: out of distribution (")
    assert ran.stderr.startswith(str(bad))
    refused = example("node", script, gateway.url, bad)
    assert refused.returncode == 1
    assert "Unsupported image type" in refused.stderr


def test_keys_go_in_by_the_environment(bundle: Path, inside: Path) -> None:
    with Gateway(bundle, "--auth", "keys", "--key-hashes", f"reader:{digest(KEY)}") as guarded:
        for command in (
            [EXAMPLES / "predict.sh"],
            [sys.executable, EXAMPLES / "predict.py"],
            ["node", EXAMPLES / "predict.mjs"],
        ):
            if not shutil.which(str(command[0])):
                continue
            assert example(*command, guarded.url, inside, OODGUARD_KEY=KEY).returncode == 0
            assert example(*command, guarded.url, inside, OODGUARD_KEY="").returncode != 0


def test_the_open_inference_protocol(gateway: Gateway, inside: Path, outside: Path, bad: Path) -> None:
    address = gateway.url.removeprefix("http://")
    ran = example(sys.executable, EXAMPLES / "open_inference.py", address, "discs", inside, bad, outside)
    assert ran.returncode == 0, ran.stderr
    known, failed, unknown = ran.stdout.splitlines()
    assert known.startswith(f"{inside}: jade (")
    assert failed.startswith(f"{bad}: unsupported_type: not an image")
    assert unknown.startswith(f"{outside}: out of distribution (")


class Upstream(BaseHTTPRequestHandler):
    """The server behind the proxy: remembers what reached it."""

    seen: list[tuple[str, str | None, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.path, self.headers["x-label"], body))
        self.send_response(201)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"taken")

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    Upstream.seen = []
    server = ThreadingHTTPServer((HOST, 0), Upstream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


Proxy = Callable[..., str]


@pytest.fixture
def proxy(tmp_path: Path, upstream: ThreadingHTTPServer) -> Iterator[Proxy]:
    """Start the proxy in front of a guard; its address."""
    running: list[Process] = []

    def begin(guard: str) -> str:
        (port,) = free_ports(1)
        url = f"http://{HOST}:{port}"
        command = [sys.executable, "-m", "uvicorn", "review_proxy:app", "--port", str(port), "--log-level", "error"]
        environment = {
            "GUARD": guard,
            "UPSTREAM": f"http://{HOST}:{upstream.server_port}",
            "REVIEW": str(tmp_path / "review"),
        }
        ready = partial(answers, url, status=405)
        running.append(Process("the proxy", command, ready=ready, environment=environment, folder=EXAMPLES).start())
        return url

    yield begin
    for process in running:
        process.stop()


def test_the_proxy_passes_what_the_guard_knows_and_keeps_the_rest(
    gateway: Gateway,
    inside: Path,
    outside: Path,
    proxy: Proxy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = proxy(gateway.url)
    passed = httpx.post(f"{url}/orders/17/photo?shop=3", content=inside.read_bytes(), headers={"x-label": "forged"})
    assert (passed.status_code, passed.text) == (201, "taken")
    assert Upstream.seen == [("/orders/17/photo?shop=3", "jade", inside.read_bytes())]
    kept = httpx.post(f"{url}/orders/18/photo", content=outside.read_bytes())
    assert kept.status_code == 202
    assert (tmp_path / "review" / f"{kept.json()['review']}.jpg").read_bytes() == outside.read_bytes()
    assert httpx.post(f"{url}/orders/19/photo", content=b"junk").status_code == 415
    assert httpx.post(f"{url}/orders/20/photo", content=bytes(21 << 20)).status_code == 413
    assert len(Upstream.seen) == 1
    assert oodguard(["review", str(tmp_path / "review"), "--out", str(tmp_path / "review.html")]) == 0
    assert "1 shown, 0 could not be read" in " ".join(capsys.readouterr().out.split())


def test_the_proxy_lets_nothing_pass_without_a_verdict(
    inside: Path, proxy: Proxy, upstream: ThreadingHTTPServer
) -> None:
    answer = httpx.post(f"{proxy(f'http://{HOST}:9')}/photo", content=inside.read_bytes(), timeout=WAIT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert Upstream.seen == []


def test_the_receiver_keeps_what_a_server_has_signed_and_nothing_else(
    bundle: Path, outside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports(1)
    secret, folder = tmp_path / "secret", tmp_path / "flagged"
    secret.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    url = f"http://{HOST}:{port}/"
    command = [sys.executable, EXAMPLES / "webhook_receiver.py", secret, folder, str(port)]
    flags = ("--sample-webhook", url, "--sample-webhook-secret", str(secret), "--sample-rate", "1")
    with Process("the receiver", command, ready=lambda: answers(url, status=501)), Gateway(bundle, *flags) as serving:
        with Client(serving.url) as client:
            assert client.predict([outside]).predictions[0].is_ood
        wait_until(lambda: serving.count("oodguard_webhook_samples", "result") == {("delivered",): 1})
        assert httpx.post(url, content=b"{}").status_code == 401
        old = {"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
               "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}  # fmt: skip
        # Its signature is right, but it may be a recorded copy.
        assert httpx.post(url, content=b'{"test": 2432232314}', headers=old).status_code == 401
    assert [path.read_bytes() for path in folder.glob("*.png")] == [outside.read_bytes()]
    assert oodguard(["review", str(folder), "--out", str(tmp_path / "review.html")]) == 0
    assert "1 shown, 0 could not be read" in " ".join(capsys.readouterr().out.split())

"""Triton goes, hangs, breaks, comes back, and changes its model, while a gateway serves."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc as grpc_client

from oodguard.export.triton.options import TritonOptions
from oodguard.export.triton.repository import write_repository
from oodguard.load_tests.process import wait_until
from oodguard.load_tests.real_triton import Triton

PNG = {"content-type": "image/png"}
BACK_WITHIN = 2.0


class Load:
    """Steady requests from some threads: when each was sent, how long it took, what came back."""

    def __init__(self, url: str, image: bytes, *, clients: int = 8) -> None:
        self.log: list[tuple[float, float, int | str, str]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url, image)) for _ in range(clients)]

    def _run(self, url: str, image: bytes) -> None:
        with httpx.Client(timeout=20) as http:
            while not self._stop.is_set():
                sent, status, version = time.monotonic(), "", ""
                found: int | str
                try:
                    answer = http.post(f"{url}/predict", content=image, headers=PNG)
                    found = answer.status_code
                    version = answer.json().get("model", {}).get("version", "")
                except httpx.TransportError as error:
                    found = repr(error) + status
                self.log.append((sent, time.monotonic() - sent, found, version))
                if found != 200:
                    time.sleep(0.02)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a request hangs"

    def statuses(self, *, since: float = 0.0) -> Counter[int | str]:
        return Counter(status for sent, _, status, _ in self.log if sent >= since)

    @property
    def longest(self) -> float:
        return max(seconds for _, seconds, _, _ in self.log)


def status(url: str, path: str) -> int:
    """The status of a health route; 0 while nobody listens."""
    try:
        return httpx.get(url + path).status_code
    except httpx.TransportError:
        return 0


def is_ready(url: str) -> bool:
    return status(url, "/health/ready") == 200


def is_up_and_red(url: str) -> bool:
    return status(url, "/health/live") == 200 and status(url, "/health/ready") == 503


@pytest.fixture
def own(triton_home: Path, repository: Path) -> Iterator[Triton]:
    """A Triton to be disturbed."""
    with Triton(triton_home, repository, models=["discs"]) as running:
        yield running
        # It has nothing to finish, and its own way to end takes seconds.
        running.kill()


def test_killed_under_load_and_back(server: Any, own: Triton, golden: list[bytes]) -> None:
    running = server("--engine", "triton", "--triton-url", own.address)
    with Load(running.url, golden[0]) as load:
        wait_until(lambda: load.statuses()[200] > 20)
        own.kill()
        wait_until(lambda: not is_ready(running.url))
        gone = time.monotonic()
        wait_until(lambda: load.statuses(since=gone)[503] > 5)
        assert set(load.statuses(since=gone)) == {503}
        own.start()
        back = time.monotonic()
        green = wait_until(lambda: is_ready(running.url), BACK_WITHIN)
        again = time.monotonic()
        wait_until(lambda: load.statuses(since=again)[200] > 20)
    assert green < BACK_WITHIN
    assert set(load.statuses(since=back + BACK_WITHIN)) <= {200}
    assert set(load.statuses()) <= {200, 503, 429}
    assert load.longest < 5.0
    assert running.stop() == 0


def test_readiness_is_asked_of_the_model_not_of_triton(server: Any, own: Triton, golden: list[bytes]) -> None:
    running = server("--engine", "triton", "--triton-url", own.address, "--stall-after", "0.5")
    with own.frozen():
        wait_until(lambda: not is_ready(running.url))
        answer = httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG, timeout=30)
        assert answer.status_code == 503
        assert own.address not in answer.text
    wait_until(lambda: is_ready(running.url))
    for pid in own.backends():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_ready(running.url))
    assert own.is_ready(), "Triton itself does not notice"
    answer = httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG, timeout=30)
    assert answer.status_code == 503


def test_a_gateway_may_start_before_its_triton(server: Any, own: Triton) -> None:
    own.kill()
    running = server("--engine", "triton", "--triton-url", own.address, ready=False)
    wait_until(lambda: is_up_and_red(running.url))
    own.start()
    wait_until(lambda: is_ready(running.url), BACK_WITHIN)


def test_load_is_spread_and_the_loss_of_one_server_costs_no_request(
    server: Any, own: Triton, triton: Triton, golden: list[bytes]
) -> None:
    before = answered(own), answered(triton)
    running = server("--engine", "triton", "--triton-url", f"{own.address},{triton.address}")
    with Load(running.url, golden[0], clients=4) as load:
        # How much each answers follows its pace; that each goes on answering does not.
        wait_until(lambda: answered(own) - before[0] > 10 and answered(triton) - before[1] > 10)
        own.kill()
        gone = time.monotonic()
        wait_until(lambda: load.statuses(since=gone)[200] > 20)
    assert set(load.statuses()) == {200}
    assert is_ready(running.url)


def answered(triton: Triton) -> int:
    with grpc_client.InferenceServerClient(triton.address) as client:
        (stats,) = client.get_inference_statistics("discs").model_stats
        return int(stats.inference_stats.success.count)


def test_models_are_reloaded_and_replaced_without_a_failed_request(
    server: Any, triton_home: Path, bundle: Path, newer: Path, tmp_path: Path, golden: list[bytes]
) -> None:
    repository, options = tmp_path / "repository", TritonOptions(backend="python", threads=1)
    write_repository(bundle, repository, options)
    with Triton(triton_home, repository, models=["discs"]) as triton:
        pinned = server("--engine", "triton", "--triton-url", triton.address)
        follows = server("--engine", "triton", "--triton-url", triton.address, "--triton-model", "discs", folder=None)
        with (
            Load(pinned.url, golden[0], clients=3) as one,
            Load(follows.url, golden[0], clients=3) as other,
            grpc_client.InferenceServerClient(triton.address) as control,
        ):
            wait_until(lambda: one.statuses()[200] > 10 and other.statuses()[200] > 10)
            control.load_model("discs")
            write_repository(newer, repository, options)
            assert control.is_model_ready("discs", "7")
            assert not control.is_model_ready("discs", "8"), "nothing changes until Triton is told"
            control.load_model("discs")
            wait_until(lambda: {version for *_, version in other.log[-20:]} == {"8"})
        for load in (one, other):
            assert set(load.statuses()) == {200}
        assert {version for *_, version in one.log} == {"7"}


def test_tls_both_ways(server: Any, triton_home: Path, repository: Path, tmp_path: Path, golden: list[bytes]) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)]
    command += ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    theirs = ["--grpc-use-ssl-mutual=true", f"--grpc-server-cert={cert}", f"--grpc-server-key={key}"]
    with Triton(triton_home, repository, *theirs, f"--grpc-root-cert={cert}", models=["discs"]) as triton:
        url = ("--engine", "triton", "--triton-url", triton.address, "--triton-tls", "--triton-ca", str(cert))
        running = server(*url, "--triton-cert", str(cert), "--triton-key", str(key))
        answer = httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG, timeout=30)
        assert answer.status_code == 200
        stranger = server(*url, ready=False)
        wait_until(lambda: is_up_and_red(stranger.url))

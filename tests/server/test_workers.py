"""`oodguard serve --workers`: several real processes that are one server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.process import answers, wait_until
from oodguard.server.keys import digest
from tests.server.test_lifetime import Load, flip_hash, replace

PNG = {"content-type": "image/png"}
Server = Callable[..., Gateway]


def workers(running: Gateway) -> list[psutil.Process]:
    """The worker processes, oldest first."""
    found = []
    for one in running.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(part.endswith("workers.start") for part in one.cmdline()):
                found.append((one.create_time(), one.pid, one))
    return [one for *_, one in sorted(found)]


def ask(running: Gateway, image: bytes, times: int, **options: Any) -> Counter[int]:
    """Statuses of requests, each on a connection of its own."""
    return Counter(
        httpx.post(f"{running.url}/predict", content=image, headers=PNG, timeout=20, **options).status_code
        for _ in range(times)
    )


def series(running: Gateway) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of the server's metrics."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(running.metrics())
        for sample in family.samples
    }


def names_of(running: Gateway) -> dict[str, tuple[str, str, frozenset[str]]]:
    """Type, help and label names of each metric."""
    return {
        family.name: (
            family.type,
            family.documentation,
            frozenset(label for sample in family.samples for label in sample.labels),
        )
        for family in text_string_to_metric_families(running.metrics())
    }


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "serving" / "bundle"
    shutil.copytree(bundle, folder)
    return folder


def test_connections_are_spread_evenly_and_everything_is_counted_once(server: Server, golden: list[bytes]) -> None:
    running = server("--workers", "2")
    alone = server()
    clients = [httpx.Client(timeout=20) for _ in range(8)]
    # The probes of the start have left, and the workers have said so.
    time.sleep(1.5)
    for client in clients:
        answer = client.post(f"{running.url}/predict", content=golden[0], headers=PNG)
        assert answer.status_code == 200
        assert client.get(f"{running.url}/health/ready").status_code == 200
    port = running.port
    held = [
        sum(one.status == "ESTABLISHED" and one.laddr.port == port for one in worker.net_connections())
        for worker in workers(running)
    ]
    for client in clients:
        client.close()
    assert sum(held) == 8
    # What a worker has said of its connections may be a moment old.
    assert min(held) >= 3
    assert ask(alone, golden[0], 8) == {200: 8}
    assert running.count("oodguard_requests", "route", "status")["/predict", "200"] == 8
    assert running.sample('oodguard_request_seconds_count{route="/predict"}') == 8
    assert running.sample('oodguard_request_seconds_bucket{le="+Inf",route="/predict"}') == 8
    assert running.sample("oodguard_fused_percentile_count") == 8
    assert running.sample("oodguard_workers") == 2
    assert alone.sample("oodguard_workers") == 1
    # The same image to the same model: what is summed over two workers is what one process counts.
    assert running.sample("oodguard_fused_percentile_sum") == pytest.approx(
        alone.sample("oodguard_fused_percentile_sum"), abs=1e-6
    )
    wait_until(lambda: running.sample('oodguard_promise_evidence{accept="0.95"}') > 0)
    # Under the same names, with the same help and labels.
    assert names_of(running) == names_of(alone)
    traffic = httpx.get(f"{running.url}/traffic").json()
    assert (traffic["images"], traffic["queue"]["limit"]) == (8, 128)


def test_a_worker_that_is_killed_is_replaced_and_its_counts_stay(server: Server, golden: list[bytes]) -> None:
    running = server("--workers", "2")
    assert ask(running, golden[0], 20) == {200: 20}
    before = series(running)
    victim = workers(running)[0]
    with Load(running.url, golden[0], clients=4) as load:
        wait_until(lambda: len(load.statuses) > 20)
        victim.kill()
        # At once, while the worker is missing: nothing has fallen, and no series is gone.
        during = series(running)
        wait_until(lambda: len(workers(running)) == 2 and victim not in workers(running))
        wait_until(lambda: running.sample("oodguard_worker_restarts_total") == 1)
        time.sleep(1)
    counted = [key for key in before if key[0].endswith(("_total", "_count", "_bucket", "_sum"))]
    assert counted
    assert all(during[key] >= before[key] for key in counted)
    wait_until(lambda: answers(f"{running.private}/health/ready"))
    after = series(running)
    assert all(after[key] >= during[key] for key in counted)
    # Each of the four callers lost the request that the worker had, at most; nobody got a wrong answer.
    failed = [status for status in load.statuses if status != 200]
    assert len(failed) <= 4
    assert all(isinstance(status, str) for status in failed)
    answered = 20 + load.statuses.count(200)
    # What the worker had counted and could not send any more is the only difference there may be.
    total = running.count("oodguard_requests", "route", "status")["/predict", "200"]
    assert answered <= total <= answered + len(failed)
    assert running.sample("oodguard_fused_percentile_count") == pytest.approx(total, abs=len(failed))


def test_every_worker_ends_at_the_same_release(server: Server, own: Path, newer: Path, golden: list[bytes]) -> None:
    running = server("--workers", "3", "--no-watch", folder=own)
    replace(own, newer)
    answer = httpx.post(f"{running.private}/admin/reload", timeout=30)
    assert answer.json() == {"status": "swapped", "model": {"name": "discs", "version": "8"}, "workers": 3}
    versions = set()
    for _ in range(9):
        found = httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG, timeout=20).json()
        versions.add(found["model"]["version"])
    assert versions == {"8"}
    assert running.sample('oodguard_reloads_total{result="swapped"}') == 1
    assert 'version="8"' in running.metrics()
    # One that is started later serves the same.
    workers(running)[0].kill()
    wait_until(lambda: running.sample("oodguard_worker_restarts_total") == 1)
    wait_until(lambda: len(workers(running)) == 3 and answers(f"{running.private}/health/ready"))
    assert httpx.get(f"{running.private}/health/ready").json()["model"]["version"] == "8"


def test_a_replaced_folder_is_taken_over_by_all_under_load(
    server: Server, own: Path, newer: Path, golden: list[bytes]
) -> None:
    running = server("--workers", "2", folder=own)
    with Load(running.url, golden[0]) as load:
        time.sleep(0.3)
        replace(own, newer)
        wait_until(lambda: "8" in load.versions)
        time.sleep(1)
    assert set(load.statuses) == {200}
    assert set(load.versions[-4:]) == {"8"}
    assert running.sample('oodguard_reloads_total{result="swapped"}') == 1


def test_a_bad_bundle_is_taken_by_none(server: Server, own: Path, golden: list[bytes]) -> None:
    running = server("--workers", "2", "--no-watch", folder=own)
    flip_hash(own)
    answer = httpx.post(f"{running.private}/admin/reload", timeout=30)
    assert answer.status_code == 422
    assert "SHA-256" in answer.json()["detail"]
    assert ask(running, golden[0], 4) == {200: 4}
    assert running.sample('oodguard_reloads_total{result="refused"}') == 1
    # A worker that ends now cannot load it either; the other serves on, and the service does not end.
    workers(running)[0].kill()
    wait_until(lambda: running.sample("oodguard_worker_restarts_total") >= 3)
    assert ask(running, golden[0], 4) == {200: 4}
    assert httpx.get(f"{running.private}/health/ready").status_code == 200


# httpx leaves a Unix socket open that it could not connect.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", ["tcp", "unix", "tls"])
def test_a_drain_loses_no_request(
    server: Server, way: str, golden: list[bytes], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    flags = {
        "tcp": (),
        "unix": ("--host", f"unix:{tmp_path / 'og.sock'}"),
        "tls": ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])),
    }[way]
    running = server("--workers", "2", *flags, ready=False)
    wait_until(lambda: answers(f"{running.private}/health/ready"))
    transport = httpx.HTTPTransport(
        uds=str(tmp_path / "og.sock") if way == "unix" else None,
        verify=ssl.create_default_context(cafile=certificate[0]) if way == "tls" else True,
    )
    url = "http://localhost" if way == "unix" else running.url
    statuses: list[int] = []
    with httpx.Client(transport=transport, timeout=20) as client:
        for number in range(40):
            if number == 20:
                running.process.send_signal(signal.SIGTERM)
            try:
                statuses.append(client.post(f"{url}/predict", content=golden[0], headers=PNG).status_code)
            except httpx.ConnectError:
                break
    assert len(statuses) >= 20
    assert set(statuses) == {200}
    assert running.process.wait(30) == 0
    assert not (tmp_path / "og.sock").exists()


def test_readiness_turns_red_before_the_port_closes(server: Server, golden: list[bytes]) -> None:
    running = server("--workers", "2", "--drain-delay", "1.5")
    running.process.send_signal(signal.SIGTERM)
    wait_until(lambda: answers(f"{running.private}/health/ready", status=503), 1)
    wait_until(lambda: answers(f"{running.url}/health/ready", status=503), 1)
    assert ask(running, golden[0], 4) == {200: 4}
    assert running.process.wait(30) == 0


def test_the_second_signal_ends_all_at_once(server: Server) -> None:
    running = server("--workers", "2", "--drain-delay", "20")
    below = workers(running)
    running.process.send_signal(signal.SIGTERM)
    wait_until(lambda: answers(f"{running.private}/health/ready", status=503))
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(5) == 128 + signal.SIGTERM
    wait_until(lambda: not any(one.is_running() and one.status() != "zombie" for one in below), 5)


def test_workers_end_when_the_fleet_is_killed(server: Server) -> None:
    running = server("--workers", "2")
    below = workers(running)
    assert len(below) == 2
    os.kill(running.process.pid, signal.SIGKILL)
    wait_until(lambda: not any(one.is_running() and one.status() != "zombie" for one in below), 15)


def test_a_signal_to_every_process_of_the_group_is_one_drain(server: Server) -> None:
    # What Ctrl-C in a terminal and systemd do.
    running = server("--workers", "2")
    os.killpg(running.process.pid, signal.SIGTERM)
    assert running.process.wait(30) == 0


def test_a_worker_that_hangs_makes_the_whole_not_ready_and_is_replaced(server: Server, golden: list[bytes]) -> None:
    running = server("--workers", "2", "--stall-after", "0.5", "--dead-after", "7")
    victim = workers(running)[0]
    victim.suspend()
    wait_until(lambda: answers(f"{running.private}/health/ready", status=503), 10)
    assert "worker" in httpx.get(f"{running.private}/health/ready").json()["detail"]
    assert httpx.get(f"{running.private}/health/live").status_code == 200
    # Nothing is asked of the worker for a scrape.
    assert running.sample("oodguard_ready") == 0
    # The other one gets the connections.
    assert ask(running, golden[0], 6) == {200: 6}
    wait_until(lambda: victim not in workers(running), 20)
    wait_until(lambda: answers(f"{running.private}/health/ready"))


def test_what_keeps_one_process_from_serving_keeps_workers_from_it(server: Server, own: Path) -> None:
    flip_hash(own)
    ended = []
    for flags in ((), ("--workers", "2")):
        running = Gateway(own, *flags).start(wait=False)
        ended.append((running.process.wait(60), running.output().strip().splitlines()[-1]))
        running.stop()
    assert ended[0] == ended[1]
    assert ended[0][0] == 2


def test_a_worker_that_cannot_start_again_and_again_ends_the_service(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'oodguard.server.workers.start' in sys.orig_argv: os._exit(7)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    running = Gateway(bundle, "--workers", "2").start(wait=False)
    assert running.process.wait(60) == 3
    last = running.output().strip().splitlines()[-1]
    running.stop()
    assert "ended with code 7 5 times in a row while it started" in last


def test_keys_are_replaced_in_every_worker(server: Server, golden: list[bytes], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"old:{digest('og_old')}:admin\n")
    running = server("--workers", "2", "--key-file", str(keys))
    assert ask(running, golden[0], 4) == {401: 4}
    keys.write_text(f"new:{digest('og_new')}:admin\n")
    wait_until(lambda: httpx.post(f"{running.private}/admin/reload", headers={"x-api-key": "og_new"}).is_success)
    for number in range(4):
        status = httpx.post(
            f"{running.url}/predict", content=golden[0], headers={**PNG, "x-api-key": "og_new"}
        ).status_code
        assert status == 200, number
    assert ask(running, golden[0], 4)[401] == 4
    assert running.sample('oodguard_key_requests_total{key="new",status="200"}') == 4


def test_flagged_images_of_all_workers_keep_to_one_limit(server: Server, strangers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flagged"
    # Each image and its sidecar take two blocks or more.
    most = 6 * 4096 * 2
    running = server(
        "--workers", "2", "--sample-dir", str(folder), "--sample-rate", "1", "--sample-max-bytes", str(most),
        "--accept", "0.5",
    )  # fmt: skip
    images = [path.read_bytes() for path in sorted(strangers.rglob("*.png"))]
    for image in images * 3:
        ask(running, image, 1)
    taken = ("kept", "repeated", "dropped")
    flagged = running.count("oodguard_predictions", "is_ood")["true",]
    assert flagged > 12

    def counted() -> Counter[tuple[str, ...]]:
        return running.count("oodguard_samples", "result")

    wait_until(lambda: sum(counted()[result,] for result in taken) == flagged)
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    assert counted()["kept",] == len({path.stem for path in files}) > 0
    assert sum(-(-path.stat().st_size // 4096) * 4096 for path in files) <= most
    assert counted()["dropped",] > 0


def test_logs_say_which_worker(server: Server, golden: list[bytes]) -> None:
    running = server("--workers", "2", "--log-level", "info")
    assert ask(running, golden[0], 6) == {200: 6}

    def asked() -> Counter[int]:
        lines = [json.loads(text) for text in running.output().splitlines() if text.startswith("{")]
        return Counter(line["worker"] for line in lines if line["message"].startswith("POST /predict"))

    # A worker's last lines may come after its answers.
    wait_until(lambda: sum(asked().values()) == 6)
    assert set(asked()) <= {1, 2}

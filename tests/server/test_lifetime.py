"""A real server process: replacing its model, refusing bad ones, TLS, and an orderly end."""

from __future__ import annotations

import json
import shutil
import signal
import ssl
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from oodguard.core.manifest import MANIFEST_FILE
from oodguard.export.bundle import export_bundle
from oodguard.load_tests.process import answers, wait_until

PNG = {"content-type": "image/png"}


class Load:
    """Steady requests from a few threads; `statuses` is what came back."""

    def __init__(self, url: str, image: bytes, clients: int = 3) -> None:
        self.statuses: list[int | str] = []
        self.versions: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url, image)) for _ in range(clients)]

    def _run(self, url: str, image: bytes) -> None:
        with httpx.Client(timeout=20) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(f"{url}/predict", content=image, headers=PNG)
                except httpx.TransportError as error:
                    self.statuses.append(repr(error))
                    continue
                self.statuses.append(answer.status_code)
                if answer.status_code == 200:
                    self.versions.append(answer.json()["model"]["version"])

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def replace(folder: Path, new: Path) -> None:
    """What a deployment does: put the new folder in the old one's place."""
    staged = folder.with_name("staged")
    shutil.copytree(new, staged)
    old = folder.with_name("old")
    folder.rename(old)
    staged.rename(folder)
    shutil.rmtree(old)


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "serving" / "bundle"
    shutil.copytree(bundle, folder)
    return folder


def test_models_are_replaced_under_load_without_a_failed_request(
    server: Any, own: Path, run: Path, tmp_path: Path, golden: list[bytes]
) -> None:
    newer = tmp_path / "newer"
    export_bundle(run, newer, name="discs", version="8")
    running = server(folder=own)
    with Load(running.url, golden[0]) as load:
        time.sleep(0.3)
        replace(own, newer)
        wait_until(lambda: "8" in load.versions)
        answer = httpx.post(f"{running.private}/admin/reload", timeout=30)
        assert (answer.status_code, answer.json()["model"]["version"]) == (200, "8")
        time.sleep(0.3)
    assert set(load.statuses) == {200}
    assert load.versions[-1] == "8"
    assert running.sample('oodguard_reloads_total{result="swapped"}') == 2.0
    assert 'version="8"' in httpx.get(f"{running.private}/metrics").text


def test_memory_returns_to_one_model(server: Any, own: Path) -> None:
    running = server("--no-watch", folder=own)
    process = psutil.Process(running.process.pid)

    def reload(times: int) -> None:
        for _ in range(times):
            assert httpx.post(f"{running.private}/admin/reload", timeout=30).status_code == 200

    reload(3)
    before = process.memory_info().rss
    reload(8)
    time.sleep(0.5)
    # Eight models that stayed would be several hundred MB.
    assert process.memory_info().rss - before < 60e6


def flip_hash(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1] + b"\0")


def break_schema(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_text('{"schema_version": 9}')


def break_golden(folder: Path) -> None:
    document = json.loads((folder / MANIFEST_FILE).read_text())
    document["golden"][0]["scores"][0] += 1.0
    (folder / MANIFEST_FILE).write_text(json.dumps(document))


def break_graph(folder: Path) -> None:
    import hashlib

    graph = folder / "model.onnx"
    graph.write_bytes(b"\x08\x01not a graph" * 100)
    document = json.loads((folder / MANIFEST_FILE).read_text())
    for entry in document["files"]:
        if entry["path"] == "model.onnx":
            entry |= {"bytes": graph.stat().st_size, "sha256": hashlib.sha256(graph.read_bytes()).hexdigest()}
    (folder / MANIFEST_FILE).write_text(json.dumps(document))


def test_a_bad_bundle_is_refused_and_the_old_one_serves_on(server: Any, own: Path, golden: list[bytes]) -> None:
    running = server("--no-watch", folder=own)
    good = own.with_name("good")
    shutil.copytree(own, good)
    with Load(running.url, golden[0], clients=1) as load:
        for count, harm in enumerate((flip_hash, break_schema, break_golden, break_graph), start=1):
            shutil.rmtree(own)
            shutil.copytree(good, own)
            harm(own)
            answer = httpx.post(f"{running.private}/admin/reload", timeout=30)
            assert (answer.status_code, answer.json()["code"]) == (422, "reload_refused"), answer.text
            assert running.sample('oodguard_reloads_total{result="refused"}') == count
            assert httpx.get(f"{running.url}/health/ready").status_code == 200
    assert set(load.statuses) == {200}


def test_sigterm_turns_readiness_red_serves_on_drains_and_exits_0(server: Any, golden: list[bytes]) -> None:
    running = server("--drain-delay", "3")
    with Load(running.url, golden[0], clients=8) as load:
        time.sleep(0.2)
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{running.url}/health/ready").status_code == 503, 2.5)
        answer = httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG)
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        before = len(load.statuses)
        assert running.process.wait(10) == 0
    # Until the port closed every request was answered; afterwards connecting is refused, nothing was cut off.
    assert before > 0
    assert {status for status in load.statuses if status != 200 and "ConnectError" not in str(status)} == set()


def test_a_second_signal_ends_at_once(server: Any) -> None:
    running = server("--drain-delay", "30")
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    started = time.monotonic()
    assert running.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert time.monotonic() - started < 2.0


def test_tls(server: Any, certificate: tuple[Path, Path], golden: list[bytes]) -> None:
    cert, key = certificate
    running = server("--tls-cert", str(cert), "--tls-key", str(key))
    assert running.url.startswith("https://")
    context = ssl.create_default_context(cafile=str(cert))
    answer = httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG, verify=context)
    assert answer.status_code == 200
    assert "max-age" in answer.headers["strict-transport-security"]


def test_callers_must_show_a_certificate_where_one_is_asked_for(
    server: Any, certificate: tuple[Path, Path], golden: list[bytes]
) -> None:
    cert, key = map(str, certificate)
    running = server("--tls-cert", cert, "--tls-key", key, "--tls-ca", cert, ready=False)
    # Its readiness is asked for at the private port: a port that is not open yet refuses everybody.
    wait_until(lambda: answers(f"{running.private}/health/ready"))
    context = ssl.create_default_context(cafile=cert)
    with pytest.raises(httpx.TransportError):
        httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG, verify=context)
    context.load_cert_chain(cert, key)
    answer = httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG, verify=context)
    assert answer.status_code == 200


def test_a_drain_cuts_off_no_tls_connection(server: Any, certificate: tuple[Path, Path], golden: list[bytes]) -> None:
    cert, key = certificate
    running = server("--tls-cert", str(cert), "--tls-key", str(key), "--drain-delay", "1")
    context = ssl.create_default_context(cafile=str(cert))
    statuses: Counter[int | str] = Counter()

    def ask() -> None:
        # A new connection each time, so that some are shaking hands whenever the port closes.
        while running.process.poll() is None:
            try:
                answer = httpx.post(f"{running.url}/predict", content=golden[0], headers=PNG, verify=context)
                statuses[answer.status_code] += 1
            except httpx.TransportError as error:
                statuses["refused" if "refused" in str(error) else repr(error)] += 1
                return

    callers = [threading.Thread(target=ask) for _ in range(6)]
    for caller in callers:
        caller.start()
    time.sleep(0.5)
    running.process.send_signal(signal.SIGTERM)
    for caller in callers:
        caller.join(30)
    assert running.process.wait(10) == 0
    assert set(statuses) == {200, "refused"}, statuses
    assert statuses["refused"] == 6

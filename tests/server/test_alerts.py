"""A real Prometheus with the project's rules looks at a real server whose traffic changes and changes back."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.verdict import Outputs
from oodguard.export.photos import run_photos
from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.process import Process, answers, free_ports
from oodguard.training.run import load_run

RULES = Path(__file__).parents[2] / "helm" / "oodguard" / "files" / "rules.yaml"
# The rules' hours in seconds. Every window and every `for` shrinks alike; the expressions stay as they are.
HOUR = 2.4
PATIENCE = 120.0
WATCHED = {"OodguardOodShareUp", "OodguardScoresDrift", "OodguardPromiseBroken"}


def shrunk(rules: str) -> str:
    """The rules with their times scaled from hours to seconds."""
    unit = {"m": HOUR / 60, "h": HOUR}

    def scaled(found: re.Match[str]) -> str:
        return f"{found[1]}{round(1000 * int(found[2]) * unit[found[3]])}ms{found[4]}"

    text = re.sub(r"(\[)(\d+)([mh])(\])", scaled, rules)
    return re.sub(r"(for: )(\d+)([mh])()", scaled, text)


class Prometheus(Process):
    """A running Prometheus that scrapes `address` as the job that the rules are about."""

    def __init__(self, folder: Path, address: str) -> None:
        (folder / "rules.yaml").write_text(shrunk(RULES.read_text()))
        config = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "oodguard", "static_configs": [{"targets": [address]}]}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (port,) = free_ports(1)
        super().__init__(
            "prometheus",
            ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--log.level=warn",
             f"--web.listen-address=127.0.0.1:{port}"],
            ready=lambda: answers(f"http://127.0.0.1:{port}/-/ready"),
            folder=folder,
        )  # fmt: skip
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30)

    def get(self, path: str, **parameters: str) -> Any:
        answer = self._api.get(path, params=parameters)
        answer.raise_for_status()
        return answer.json()["data"]

    def value(self, query: str) -> float | None:
        """The only sample of a query; None where there is none."""
        found = self.get("/query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        alerts = self.get("/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if condition():
                    return
            assert self.process.poll() is None, self.output()
            time.sleep(0.1)
        raise AssertionError(f"not within {PATIENCE:g} s: {what}; {self.get('/alerts')}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self._api.close()
        return super().stop(number)


class Traffic(threading.Thread):
    """Posts the same images over and over until stopped; they may be exchanged."""

    def __init__(self, url: str, images: list[bytes]) -> None:
        super().__init__()
        self.images = images
        self._url = url
        self._stopped = threading.Event()
        self.failed: list[str] = []

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stopped.wait(0.1):
                answer = client.post("/predict", files=[("image", ("x", data)) for data in self.images])
                if answer.status_code != 200 or answer.json()["errors"]:
                    self.failed.append(answer.text[:500])

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@pytest.fixture(scope="module")
def serving(bundle: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A server calibrated on the run's own calibration images alone, so that their percentiles are uniform."""
    folder = tmp_path_factory.mktemp("alone") / "discs"
    shutil.copytree(bundle, folder)
    trained = load_run(run)
    own = trained.labelled.rows(np.arange(len(trained.apart), len(trained.labelled)))
    manifest = load_manifest(bundle)
    outputs = Outputs(
        probabilities=np.array([golden.probabilities for golden in manifest.golden], np.float32),
        scores=np.array([golden.scores for golden in manifest.golden], np.float32),
    )
    manifest = manifest.model_copy(update={"calibration": trained.record.calibration.answered(own)})
    golden = tuple(
        golden.model_copy(update={"is_ood": verdict.is_ood, "ood_score": None, "threshold": None})
        for golden, verdict in zip(manifest.golden, manifest.judge(outputs), strict=True)
    )
    (folder / MANIFEST_FILE).write_text(manifest.model_copy(update={"golden": golden}).model_dump_json())
    with Gateway(folder) as running:
        yield running


@pytest.fixture
def prometheus(serving: Any, tmp_path: Path) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus (Debian: prometheus) is not installed")
    with Prometheus(tmp_path, serving.private.removeprefix("http://")) as running:
        yield running


def test_alerts_fire_when_traffic_turns_strange_and_clear_when_it_turns_back(
    serving: Any, prometheus: Prometheus, run: Path, strangers: Path
) -> None:
    # The calibration's own images.
    usual = [p.path.read_bytes() for p in run_photos(load_run(run), run, data=None).calibration]
    strange = [path.read_bytes() for path in sorted(strangers.rglob("*.png"))] * 3
    traffic = Traffic(serving.url, usual)
    traffic.start()
    try:
        prometheus.wait("usual images", lambda: (prometheus.value("oodguard:images:increase_6h") or 0) > 2 * len(usual))
        time.sleep(2 * HOUR)  # anything that wanted to fire has had its time
        assert not prometheus.firing() & WATCHED
        assert (prometheus.value("oodguard:ood_images:ratio_1h") or 0) < 0.1
        rules = [rule for group in prometheus.get("/rules")["groups"] for rule in group["rules"]]
        assert len(rules) > 30
        assert [rule for rule in rules if rule["health"] != "ok"] == []

        assert (prometheus.value("oodguard:promise_evidence") or 0) < 1e6

        traffic.images = strange
        prometheus.wait("all fire", lambda: prometheus.firing() >= WATCHED)
        assert (prometheus.value("oodguard:ood_images:ratio_1h") or 0) > 0.15

        traffic.images = usual
        prometheus.wait("all clear", lambda: not prometheus.firing() & WATCHED)
        # Not for want of images.
        prometheus.wait("images", lambda: (prometheus.value("oodguard:images:increase_1h") or 0) > 30)
        prometheus.wait("low", lambda: (prometheus.value("oodguard:ood_images:ratio_1h") or 1) < 0.1)
    finally:
        traffic.stop()
    assert traffic.failed == []

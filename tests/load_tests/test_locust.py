"""Real locust, without its page and with it, in one process and in three, against a real server."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element

import httpx
import pytest

from oodguard.load_tests.gateway import Gateway
from oodguard.load_tests.loadtest import LOCUSTFILE, locust_command
from oodguard.load_tests.process import HOST, Process, answers, free_ports, wait_until
from oodguard.load_tests.real_triton import Triton

WAIT = 120


@pytest.fixture(scope="module")
def gateway(bundle: Path) -> Iterator[Gateway]:
    with Gateway(bundle) as running:
        yield running


def requests(gateway: Gateway) -> int:
    return gateway.count("oodguard_requests", "route")[("/predict",)]


@pytest.fixture
def mix(photos: Path, strangers: Path) -> list[str]:
    return ["--images", str(photos / "test"), "--ood-images", str(strangers), "--think", "0.02"]


def finish(*processes: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """Exit code and output of each; whatever does not end is killed."""
    try:
        return [(process.wait(WAIT), process.stdout.read() if process.stdout else "") for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def start(command: list[str], tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )


def summary(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of summary.csv by their first cell."""
    with (folder / "summary.csv").open(newline="") as file:
        return {row["requests of kind"]: row for row in csv.DictReader(file)}


def test_users_send_all_kinds_and_the_summary_is_the_servers_count(
    gateway: Gateway, mix: list[str], tmp_path: Path, parse_page: Callable[[str], Element]
) -> None:
    before = gateway.count("oodguard_predictions", "is_ood")
    wanted = [
        "--people",
        "4",
        "--seconds",
        "3",
        "--shape",
        "step",
        "--ood-share",
        "0.5",
        "--min-images-per-second",
        "0.1",
    ]
    command = locust_command(gateway.url, *mix, *wanted, "--results", str(tmp_path / "found"))
    ((code, said),) = finish(start(command, tmp_path))
    assert code == 0, said
    rows = summary(tmp_path / "found")
    assert set(rows) == {"raw", "multipart", "json", "all"}
    assert sum(int(rows[kind]["requests"]) for kind in ("raw", "multipart", "json")) == int(rows["all"]["requests"])
    assert rows["all"]["errors %"] == rows["all"]["shed %"] == "0.0"
    assert float(rows["all"]["p50 ms"]) <= float(rows["all"]["p95 ms"]) <= float(rows["all"]["p99 ms"])
    seen = gateway.count("oodguard_predictions", "is_ood") - before
    page = (tmp_path / "found" / "summary.html").read_text(encoding="utf-8")
    parse_page(page.replace(gateway.url, "the server"))
    assert f"of {seen.total():,} images" in page
    assert float(rows["all"]["flagged %"]) == pytest.approx(100 * seen[("true",)] / seen.total(), abs=0.051)
    assert 0 < seen[("true",)] < seen.total()
    assert "kept: answered images a second" in said
    (last,) = [line for line in said.splitlines() if line.startswith("this machine answers ")]
    assert re.search(r"; it was (saturated: |not saturated by [1-4] users: )", last)
    assert last in page
    assert "| all |" in (tmp_path / "found" / "summary.md").read_text(encoding="utf-8")


def test_missed_thresholds_set_the_exit_code(gateway: Gateway, mix: list[str], tmp_path: Path) -> None:
    bounds = ["--max-p99-ms", "0.01", "--min-images-per-second", "1e6", "--max-p50-ms", "1e6"]
    command = locust_command(gateway.url, *mix, "--people", "2", "--seconds", "1", *bounds)
    ((code, said),) = finish(start(command, tmp_path))
    assert code == 1, said
    assert "MISSED: p99 of answered requests" in said
    assert "MISSED: answered images a second" in said
    assert "kept: p50 of answered requests" in said


def test_a_server_that_is_not_there_keeps_no_threshold(mix: list[str], tmp_path: Path) -> None:
    command = locust_command("http://127.0.0.1:9", *mix, "--people", "2", "--seconds", "1", "--max-error-share", "1")
    ((code, said),) = finish(start(command, tmp_path))
    assert code == 1, said
    assert "MISSED: requests answered: 0" in said
    assert "Outcomes: broken" in said


def test_options_that_make_no_sense_are_one_sentence(mix: list[str], tmp_path: Path) -> None:
    command = locust_command("http://127.0.0.1:9", *mix, "--images", "absent")
    ((code, said),) = finish(start(command, tmp_path))
    assert code == 2, said
    assert "no images under absent" in said
    assert "Traceback" not in said


def test_a_master_and_two_workers_count_as_one(gateway: Gateway, mix: list[str], tmp_path: Path) -> None:
    before = requests(gateway)
    port = str(free_ports(1)[0])
    wanted = ["--people", "4", "--seconds", "2", "--results", str(tmp_path / "found")]
    master = [*locust_command(gateway.url, *mix, *wanted), "--master", "--master-bind-port", port]
    one = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--worker", "--master-port", port]
    processes = [start([*master, "--expect-workers", "2"], tmp_path), start(one, tmp_path), start(one, tmp_path)]
    codes = finish(*processes)
    assert [code for code, _ in codes] == [0, 0, 0], codes
    all_kinds = summary(tmp_path / "found")["all"]
    assert int(all_kinds["requests"]) == requests(gateway) - before > 0
    assert all_kinds["errors %"] == "0.0"


def test_locusts_page_starts_a_test_with_its_own_options(gateway: Gateway, mix: list[str], tmp_path: Path) -> None:
    port = str(free_ports(1)[0])
    page = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", gateway.url, "--web-host", HOST]
    command += ["--web-port", port, *mix, "--results", str(tmp_path / "found")]
    with Process("locust", command, ready=partial(answers, page), folder=tmp_path) as locust:
        assert "ood_share" in httpx.get(page).text
        form = {"user_count": 2, "spawn_rate": 2, "people": 2, "seconds": 1, "shape": "spike", "max_images": 1}
        assert httpx.post(f"{page}/swarm", data=form).json()["success"]
        wait_until(lambda: httpx.get(f"{page}/stats/requests").json()["state"] == "stopped", WAIT)
        assert locust.stop() == 0, locust.output()
    assert set(summary(tmp_path / "found")) >= {"all"}


def test_triton_is_asked_directly_and_judged_here(triton: Triton, mix: list[str], tmp_path: Path) -> None:
    wanted = ["--people", "2", "--seconds", "2", "--ood-share", "0.5", "--triton-model", "discs"]
    address = f"http://{HOST}:{triton.http}"
    command = locust_command(address, *mix, *wanted, "--results", str(tmp_path / "found"))
    ((code, said),) = finish(start(command, tmp_path))
    assert code == 0, said
    rows = summary(tmp_path / "found")
    assert set(rows) == {"pixels", "all"}
    assert int(rows["all"]["requests"]) > 0
    assert 10 < float(rows["all"]["flagged %"]) < 90

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from oodguard.load_tests.abuse import Honest, Watch, missed
from oodguard.load_tests.abusers import ABUSERS, Over, Target, abuser
from oodguard.load_tests.gateway import Gateway

SCRIPT = Path(__file__).parents[2] / "load_tests" / "abuse.py"


def test_two_seconds_of_one_kind_cost_an_honest_caller_nothing(bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "abuse.json"
    command = [sys.executable, str(SCRIPT), str(bundle), "--images", str(bundle / "golden"), "--seconds", "2"]
    found = subprocess.run(
        [*command, "--only", "trailers", "--json", str(report)], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stdout + found.stderr
    (row,) = json.loads(report.read_text())["rows"]
    assert (row["kind"], row["answered_percent"], row["untrue"]) == ("trailers", 100.0, 0)
    # Without a limit the two seconds take hundreds of megabytes.
    assert row["memory_mb"] < 100


def test_an_unknown_kind_is_one_sentence(bundle: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(bundle), "--images", str(bundle / "golden"), "--only", "nothing"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode != 0
    assert found.stderr.startswith("error: --only nothing is no kind of abuse; there are ")


def test_readiness_is_untrue_where_it_is_green_while_photos_fail_or_red_while_none_does() -> None:
    watch, honest = Watch(Gateway(None)), Honest("", sent=4, seconds=[0.010, 0.020, 0.040], failed=[100.0])
    assert watch.untrue(honest) == 1
    watch.red = [100.5]
    assert watch.untrue(honest) == 0
    watch.red = [100.5, 200.0]
    assert watch.untrue(honest) == 1
    assert (honest.share, honest.p99_ms) == (75.0, 40.0)


def test_an_abuser_begins_anew_when_its_connection_ends() -> None:
    over, begun = threading.Event(), list[int]()

    @abuser("is cut off twice")
    def cut_off(target: Target, over: Over) -> None:
        begun.append(target.port)
        if len(begun) == 3:
            over.set()  # type: ignore[attr-defined]
            return
        raise ConnectionResetError

    try:
        ABUSERS["cut-off"].run(Target("127.0.0.1", 9, b""), over)
        assert begun == [9, 9, 9]
        with pytest.raises(ValueError, match="registered twice"):
            abuser("again")(cut_off)
    finally:
        del ABUSERS["cut-off"]


def test_the_last_line_names_what_was_missed() -> None:
    kept = {"kind": "a", "answered_percent": 100.0, "times": 3.0, "memory_mb": 300, "live_ms": 100.0, "untrue": 0}
    assert missed([kept]) == "every kind kept to every goal"
    other = {**kept, "kind": "b", "memory_mb": 301, "answered_percent": 99.9}
    assert missed([kept, other]) == "missed: b (honest answered % 99.9), b (peak MB above start 301)"

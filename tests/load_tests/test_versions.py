"""Two checkouts are compared by what a photo costs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_checkout_beside_itself_costs_about_the_same(bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "versions.json"
    command = [sys.executable, str(ROOT / "load_tests" / "versions.py"), str(bundle), "--other", str(ROOT)]
    options = ["--images", str(bundle / "golden"), "--rounds", "4", "--photos", "20", "--json", str(report)]
    found = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"in pairs [+-][\d.]+ %, half of the 4 pairs from", " ".join(found.stdout.split()))
    this, other = (row["ms"] for row in json.loads(report.read_text())["rows"])
    assert len(this) == len(other) == 4
    assert 0.3 < sum(this) / sum(other) < 3


def test_what_is_no_checkout_is_one_sentence(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "load_tests" / "versions.py"), str(bundle), "--other", str(tmp_path)]
    found = subprocess.run([*command, "--images", str(bundle / "golden")], capture_output=True, text=True, timeout=120)
    assert (found.returncode != 0, found.stderr) == (True, f"error: {tmp_path} is no checkout of this repository\n")

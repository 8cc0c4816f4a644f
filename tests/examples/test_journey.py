"""The journey of a new user in short form: the whole script, on small photos."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "journey.sh"
SMALL = "--image-size 64 --views 1 --no-fine-tune --epochs 5 --hidden 32 --calibration-fraction 0.33 --check-folds 0"


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
def test_the_journey_goes_from_photos_to_a_second_version_and_back(
    photos: Path, strangers: Path, cache: Path, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "oodguard"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m oodguard.cli "$@"\n')
    program.chmod(0o755)
    root = str(SCRIPT.parents[1])
    ran = subprocess.run(
        [SCRIPT, photos / "train", photos / "test", strangers],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": root,
            "TMPDIR": str(tmp_path),
            "JOURNEY_TRAIN": f"{SMALL} --cache {cache}",
            "JOURNEY_CHECK": f"--image-size 64 --cache {cache}",
        },
    )
    said = ran.stdout
    assert ran.returncode == 0, said + ran.stderr
    assert "Traceback" not in said + ran.stderr
    assert re.findall(r"^## (.*)", said, re.MULTILINE) == [
        "Look at the photos before training",
        "Train without copies and unreadable files, and measure",
        "Export, and put it into service",
        "A week of traffic",
        "Review what was flagged",
        "Train the next version with what was learned",
        "Is it better?",
        "Promote it, and have the server take it over",
        "Is this week still like the photos that it was calibrated on?",
        "Roll back",
    ]
    # What the server says after the promotion and after the rollback.
    promoted, rolled_back = re.findall(r'^\{.*"version":"(\d+)"', said, re.MULTILINE)
    assert (promoted, rolled_back) == ("2", "1")
    # The strangers of the traffic were flagged, marked, and copied; nothing is left behind.
    assert re.search(r"seen-strangers: [1-6] strangers", said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]
    assert str(tmp_path) not in said

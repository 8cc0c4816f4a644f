from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from scipy.stats import beta

from oodguard.core.manifest import load_manifest
from tests.cli.terminal import call
from tests.server.test_recalibration import darkened


def test_recalibrate_says_what_changed_and_what_so_few_photos_promise(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "discs")
    trusted = darkened(tmp_path / "trusted", seed=50_000)
    (trusted / "jade" / "torn.jpg").write_bytes(b"no image")
    flags = ("--images", trusted, "--source", "cam3", "--sessions", "1")
    code, out, _ = call(capsys, "recalibrate", copy, *flags, "--dry-run")
    assert code == 0
    assert "dry run: nothing was written" in out
    assert load_manifest(copy).version == "7"
    code, out, _ = call(capsys, "recalibrate", copy, *flags)
    assert code == 0
    assert load_manifest(copy).version == "8"
    # The threshold is the 58th of 60 fused scores: ceil(0.95 * 61).
    low, high = beta.ppf([0.05, 0.95], 58, 3)
    assert re.search(r"version 7 accepted \d\.\d% of them at accept 0\.95 \(90 % interval 0\.\d% to \d+\.\d%\)", out)
    for words in (
        "discs version 8, thresholds of the source cam3 from 60 photos",
        f"so many photos keep 0.95 on average, {low:.1%} to {high:.1%} in 90 % of draws",
        "they promise 0.9836 at most, and are enough for a confidence of 0.9",
        "every photo is in a folder named after its class",
        "could not be used: 1",
        "torn.jpg: not an image",
    ):
        assert words in out, out
    code, _, error = call(capsys, "recalibrate", copy, "--images", tmp_path / "none")
    assert (code, "does not exist" in error) == (2, True)

"""How much of the machine's own speed `oodguard score` reaches: its images/s as a share of the in-process limit.

The limit is the same decode, resize and graph over images in memory, in a tight loop, the best of several organisations
(limit.py). It and the command are run in turn, round after round; a share is taken within its round. `scoring` is the
rate the command prints, from its first image to its last; `whole` is from its start to its end, imports and all.

    python load_tests/offline_share.py BUNDLE [BUNDLE ...] --images photos/test --count 600
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem
from oodguard.load_tests.harness import (
    OtherPrograms,
    console,
    read_bundle,
    read_images,
    report_table,
    run_script,
    write_report,
)
from oodguard.load_tests.limit import Limit, compare
from oodguard.load_tests.options import Options

RUN_SECONDS = 3600
COLUMNS = {
    "bundle": "bundle",
    "limit": "limit img/s",
    "scoring": "scoring img/s",
    "share_percent": "share %",
    "share_range": "lowest to highest",
    "whole": "whole img/s",
}


def main() -> None:
    """Measure and print."""
    parser = Options(
        "Images a second of oodguard score as a share of what the same work reaches in a tight loop.",
        seconds=5,
        rounds=5,
    )
    parser.add_bundle(several=True).add_images(count=600)
    parser.add_argument("--score", default="", help='options for oodguard score, as one string: "--workers 2"')
    options = parser.parse()
    others = OtherPrograms()
    for bundle in options.bundle:
        read_bundle(bundle)
    images = read_images(options.images, count=options.count)
    rows = [_measure(bundle, images, options) for bundle in options.bundle]
    title = f"{len(images)} images, {options.rounds} rounds, limit measured for {options.seconds:g} s; medians"
    console.print(report_table(title, COLUMNS, rows))
    write_report(options.json, options={**vars(options), **others.report()}, rows=rows)


def _measure(bundle: Path, images: list[bytes], options: argparse.Namespace) -> dict[str, object]:
    scoring: list[float] = []
    whole: list[float] = []
    with Limit(bundle, images) as limit, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        for index, image in enumerate(images):
            (folder / f"{index:06}.jpg").write_bytes(image)

        def measure() -> str:
            command = [sys.executable, "-m", "oodguard.cli", "score", str(bundle), str(folder)]
            out = Path(scratch) / f"{len(scoring)}.parquet"
            rate, seconds = _run([*command, "--out", str(out), *shlex.split(options.score)])
            scoring.append(rate)
            whole.append(len(images) / seconds)
            return f"scoring {scoring[-1]:.1f}, whole {whole[-1]:.1f}"

        comparison = compare(limit, measure, rounds=options.rounds, seconds=options.seconds)
    return {
        "bundle": bundle.name,
        **comparison.row("scoring", scoring),
        "whole": round(statistics.median(whole), 1),
    }


def _run(command: list[str]) -> tuple[float, float]:
    """Images a second as the command prints them, and its whole seconds."""
    started = time.monotonic()
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_SECONDS)
    seconds = time.monotonic() - started
    found = re.search(r"([\d,]+) scored in ([\d.]+) s", " ".join(ran.stdout.split()))
    if ran.returncode or found is None:
        raise EnvironmentProblem(f"oodguard score ended with {ran.returncode}: {' '.join(ran.stderr.split())[-300:]}")
    return int(found[1].replace(",", "")) / float(found[2]), seconds


if __name__ == "__main__":
    run_script(main)

"""How much of the machine's own speed `oodguard score` reaches: its images/s as a share of the in-process limit.

The limit is the same decode, resize and graph over images in memory, in a tight loop, the best of several organisations
(limit.py). It and the command are run in turn, round after round; a share is taken within its round. `scoring` is the
rate the command prints, from its first image to its last; `whole` is from its start to its end, imports and all.

    python load_tests/offline_share.py BUNDLE [BUNDLE ...] --images photos/test --count 600
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.load_tests.harness import (
    Bystanders,
    console,
    read_bundle,
    read_images,
    report_table,
    run_script,
    write_report,
)
from oodguard.load_tests.limit import Limit, Organisation, fastest, finalists, organisations, turns

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
    options = _options()
    bystanders = Bystanders()
    for bundle in options.bundles:
        read_bundle(bundle)
    images = read_images(options.images, count=options.count)
    rows = [_measure(bundle, images, options) for bundle in options.bundles]
    title = f"{len(images)} images, {options.rounds} rounds, limit measured for {options.seconds:g} s; medians"
    console.print(report_table(title, COLUMNS, rows))
    write_report(options.json, options={**vars(options), **bystanders.report()}, rows=rows)


def _measure(bundle: Path, images: list[bytes], options: argparse.Namespace) -> dict[str, object]:
    scoring: list[float] = []
    whole: list[float] = []
    with Limit(bundle, images) as limit, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        for index, image in enumerate(images):
            (folder / f"{index:06}.jpg").write_bytes(image)
        looks = {o: limit.measure(o, seconds=max(options.seconds / 3, 1)) for o in organisations()}
        chosen = finalists(looks)
        found: list[dict[Organisation, float]] = []
        for number in range(options.rounds):
            for what in turns(number, "limit", "score"):
                if what == "limit":
                    found.append({o: limit.measure(o, seconds=options.seconds) for o in chosen})
                    continue
                rate, seconds = _score(bundle, folder, Path(scratch) / f"{number}.parquet", options.score.split())
                scoring.append(rate)
                whole.append(len(images) / seconds)
            line = f"  limit {max(found[-1].values()):.1f} img/s, scoring {scoring[-1]:.1f}, whole {whole[-1]:.1f}"
            console.print(line, style="dim")
        best = fastest(chosen, found)
        limits = [rates[best] for rates in found]
    shares = [100 * rate / limit for rate, limit in zip(scoring, limits, strict=True)]
    return {
        "bundle": bundle.name,
        "limit": round(statistics.median(limits), 1),
        "limit_organisation": str(best),
        "scoring": round(statistics.median(scoring), 1),
        "share_percent": round(statistics.median(shares), 1),
        "share_range": f"{min(shares):.1f} to {max(shares):.1f}",
        "whole": round(statistics.median(whole), 1),
        "limits": [round(rate, 1) for rate in limits],
        "scorings": [round(rate, 1) for rate in scoring],
    }


def _score(bundle: Path, folder: Path, out: Path, more: Sequence[str]) -> tuple[float, float]:
    """Images a second as the command prints them, and its whole seconds."""
    command = [sys.executable, "-m", "oodguard.cli", "score", str(bundle), str(folder), "--out", str(out), *more]
    started = time.monotonic()
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_SECONDS)
    seconds = time.monotonic() - started
    found = re.search(r"([\d,]+) scored in ([\d.]+) s", " ".join(ran.stdout.split()))
    if ran.returncode or found is None:
        raise EnvironmentProblem(f"oodguard score ended with {ran.returncode}: {' '.join(ran.stderr.split())[-300:]}")
    return int(found[1].replace(",", "")) / float(found[2]), seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Images a second of oodguard score as a share of what the same work reaches in a tight loop."
    )
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="bundle folder, fp32 or int8")
    parser.add_argument("--images", type=Path, required=True, help="folder of images, searched recursively")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--count", type=int, default=600, help="how many images to score (default: 600)")
    parser.add_argument("--rounds", type=int, default=5, help="how often limit and command take turns (default: 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each look at the limit (default: 5)")
    parser.add_argument("--score", default="", help='more options for oodguard score, as one string: "--workers 2"')
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1 or options.count < 1:
        raise InputError("--rounds, --seconds and --count must be at least 1")
    return options


if __name__ == "__main__":
    run_script(main)

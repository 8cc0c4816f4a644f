"""What a guard of many classes costs: time and memory of train, export, evaluate and score, and the sizes they leave.

The photos are drawn: a class is a shape with colours and a pattern of its own, and each photo shows it elsewhere,
turned, in another light, on another ground. Anybody can so make a set of any number of classes. Each step is the
command itself, in a process of its own; `peak MB` is the most resident memory that it had.

    python load_tests/many_classes.py --classes 1000 --photos 10 --work /tmp/many --json many.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.load_tests.harness import OtherPrograms, console, report_table, run_script, write_report
from oodguard.load_tests.options import Options

SIDE = 192
COLUMNS = {
    "classes": "classes",
    "photos": "photos",
    "step": "step",
    "seconds": "seconds",
    "peak_mb": "peak MB",
    "writes_mb": "writes MB",
}


@dataclass(frozen=True)
class Look:
    """How the photos of one class look: a star of so many points, its colours, and stripes over it."""

    points: int
    depth: float
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]
    stripes: int
    slant: float

    @classmethod
    def of(cls, number: int) -> Look:
        """The look of class `number`; no two are alike."""
        rng = np.random.default_rng([7, number])
        red, green, blue, *others = (int(value) for value in rng.integers(0, 256, 6))
        return cls(
            points=int(rng.integers(3, 12)),
            depth=float(rng.uniform(0.25, 0.95)),
            colours=((red, green, blue), (others[0], others[1], others[2])),
            stripes=int(rng.integers(0, 9)),
            slant=float(rng.uniform(0, math.pi)),
        )


def draw(number: int, index: int) -> Image.Image:
    """Photo `index` of class `number`: the same picture whenever it is drawn."""
    look, rng = Look.of(number), np.random.default_rng([8, number, index])
    light = rng.uniform(0.75, 1.2)
    ground = Image.fromarray(rng.integers(60, 200, (4, 4, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    first, second = (tuple(min(255, round(light * value)) for value in colour) for colour in look.colours)
    stripes = Image.new("RGB", (SIDE, SIDE), first)
    pen = ImageDraw.Draw(stripes)
    for place in range(look.stripes):
        x = SIDE * (place + 0.5) / look.stripes
        pen.line((x, 0, x, SIDE), fill=second, width=SIDE // (3 * look.stripes))
    turn = float(rng.uniform(-0.35, 0.35))
    stripes = stripes.rotate(math.degrees(look.slant + turn), Image.Resampling.BILINEAR)
    centre, radius = rng.uniform(0.4, 0.6, 2) * SIDE, rng.uniform(0.28, 0.42) * SIDE
    angles = turn + np.arange(2 * look.points) * math.pi / look.points
    radii = np.where(np.arange(2 * look.points) % 2, radius * look.depth, radius)
    corners = np.stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)], axis=1)
    shape = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(shape).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    ground.paste(stripes, mask=shape.filter(ImageFilter.GaussianBlur(1)))
    noisy = np.asarray(ground, dtype=np.float32) + rng.normal(0, 6, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def make(folder: Path, *, classes: int, photos: int) -> Path:
    """Draw `photos` photos of each class below `folder`, unless they are there."""
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(partial(_make_class, folder, photos), range(classes), chunksize=16):
            pass
    return folder


def _make_class(folder: Path, photos: int, number: int) -> None:
    place = folder / f"class-{number:05}"
    place.mkdir(parents=True, exist_ok=True)
    for index in range(photos):
        path = place / f"{index:03}.jpg"
        if not path.is_file():
            draw(number, index).save(path, quality=90)


def measure(command: list[str], *, step: str) -> dict[str, object]:
    """Run a command to its end; its seconds, its peak of resident memory, and what it printed. Raises on a failure."""
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise EnvironmentProblem(f"oodguard {step} ended with {process.returncode}")
    seconds = time.monotonic() - started
    return {
        "step": step,
        "seconds": round(seconds, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "printed": " ".join(printed.split()),
    }


def megabytes(path: Path) -> float:
    """Bytes below a path, in MB."""
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(file.stat().st_size for file in files if file.is_file()) / 1e6, 1)


def main() -> None:
    """Measure and print."""
    parser = Options("Time and memory of every step from photos to answers, for many classes.")
    parser.add_argument("--classes", type=int, nargs="+", default=[1000], help="how many classes (default: 1000)")
    parser.add_argument("--photos", type=int, default=10, help="photos of each class (default: 10)")
    parser.add_argument("--work", type=Path, required=True, help="folder for photos, cache, run and bundle")
    parser.add_argument("--train", default="", help='options for oodguard train, as one string: "--image-size 128"')
    options = parser.parse()
    if min(options.classes) < 2 or options.photos < 4:
        raise InputError("a guard needs at least 2 --classes and 4 --photos of each")
    others = OtherPrograms()
    rows = [row for classes in options.classes for row in _steps(classes, options)]
    console.print(report_table(f"{options.photos} photos of each class", COLUMNS, rows))
    write_report(options.json, options={**vars(options), **others.report()}, rows=rows)


def _steps(classes: int, options: argparse.Namespace) -> list[dict[str, object]]:
    name = f"{classes}x{options.photos}"
    work = options.work
    photos = make(work / f"photos-{name}", classes=classes, photos=options.photos)
    run, bundle, scored = work / f"run-{name}", work / f"bundle-{name}", work / f"scores-{name}.parquet"
    cache = ["--cache", str(work / "cache")]
    commands: dict[str, tuple[list[str], Path]] = {
        "train": (["--data", str(photos), "--out", str(run), "--overwrite", *cache, *shlex.split(options.train)], run),
        "evaluate": ([str(run)], run / "report.html"),
        "export": ([str(run), "--out", str(bundle), "--overwrite"], bundle),
        "score": ([str(bundle), str(photos), "--out", str(scored), "--overwrite"], scored),
    }
    rows: list[dict[str, object]] = []
    for step, (arguments, written) in commands.items():
        row = measure([sys.executable, "-m", "oodguard.cli", step, *arguments], step=step)
        console.print(f"{name} {json.dumps(row)}")
        rows.append({"classes": classes, "photos": classes * options.photos, **row, "writes_mb": megabytes(written)})
    return rows


if __name__ == "__main__":
    run_script(main)

"""Train, export and serve a guard on every family of timm's models, and write docs/BACKBONES.md.

    make backbones

A family is a module of `timm.models`, and its member here the one with the fewest weights. Each runs in a process of
its own, with seeded random weights and a few drawn photos: `train` as it is by default, but for fewer epochs; `export`;
`oodguard.load`; and one photo from its file, then a batch of five. Random weights of some families give all photos
nearly the same feature, which training or export refuses; these are tried again with batch norm measured on the photos,
and layer scales, which start next to 0, at 1.
Each family is one line of build/backbones.jsonl: a second call runs those that are missing, and those that failed with
`--again`. All of them take hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LINES = ROOT / "build" / "backbones.jsonl"
PAGE = ROOT / "docs" / "BACKBONES.md"
COLOURS = {"amber": (230, 150, 20), "plum": (110, 40, 120)}
# Photos of a class: to train and calibrate on, and to test on.
PHOTOS = {"train": 24, "test": 5}
# Larger inputs are for detection and documents; families that have them take these sides, too.
LARGEST_SIDE = 384
SMALLER_SIDES = (224, 256)
MINUTES = 20
# Of layer scales: timm starts them at 1e-6 to 1e-2.
LARGEST_START = 0.01
MARK = "<!-- families -->"

Line = dict[str, Any]


def draw_photos(folder: Path) -> Path:
    """Discs of two colours on noise, in `train/` and `test/`; the first of the test photos."""
    rng = np.random.default_rng(0)
    first: Path | None = None
    for split, count in PHOTOS.items():
        for label, colour in COLOURS.items():
            place = folder / split / label
            place.mkdir(parents=True)
            for number in range(count):
                file = place / f"{number:02d}.png"
                Image.fromarray(_disc(rng, colour)).save(file)
                first = first or (file if split == "test" else None)
    assert first is not None
    return first


def _disc(rng: np.random.Generator, colour: tuple[int, int, int], side: int = 96) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:side, :side]
    centre_y, centre_x = rng.uniform(0.3, 0.7, 2) * side
    inside = ((y - centre_y) ** 2 + (x - centre_x) ** 2 < (rng.uniform(0.15, 0.4) * side) ** 2)[..., None]
    ground = rng.uniform(80, 220, 3) + rng.normal(0, 20, (side, side, 3))
    painted = np.where(inside, np.array(colour) + rng.normal(0, 20, (side, side, 3)), ground)
    return np.clip(painted, 0, 255).astype(np.uint8)


def smallest(family: str) -> tuple[str, int, int]:
    """The member with the fewest weights but for timm's own test models, how many it has, and its input's side."""
    import torch

    from oodguard.training.backbone.timm_loader import timm

    found = []
    for name in timm.list_models(module=family):
        if name.startswith("test_"):
            continue
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, num_classes=0)
        side = int(timm.data.resolve_model_data_config(model)["input_size"][1])
        found.append((sum(p.numel() for p in model.parameters()), name, side))
    weights, name, side = min(found)
    return name, weights, side


def try_family(family: str, folder: Path) -> Line:
    """Train, export and serve the family's smallest member in `folder`: what came of it, for the table."""
    import torch

    from oodguard.core.errors import OodguardError, QualityError

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    name, weights, side = smallest(family)
    line: Line = {"family": family, "member": name, "weights": weights, "side": side, "seconds": {}}
    photo = draw_photos(folder / "photos")
    reason = ""
    sizes: Sequence[int | None] = (None,) if side <= LARGEST_SIDE else (*SMALLER_SIDES, None)
    for size in sizes:
        for measured in (False, True):
            place = folder / f"{size}-{measured}"
            try:
                found = _served(name, size, photo, place, _measured(name, size, photo, place) if measured else "random")
                return line | found | {"measured": measured}
            except QualityError as error:
                reason = str(error)
            except OodguardError as error:
                reason = str(error)
                break
            except Exception as error:  # whatever a user would see as a traceback
                reason, line["traceback"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", True
                break
    return line | {"failed": reason}


def _measured(name: str, size: int | None, photo: Path, folder: Path) -> str:
    """A file of random weights as training would leave them: layer scales of 1, and batch norm as of some photos."""
    import safetensors.torch
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from oodguard.core.preprocessing import load_pixels
    from oodguard.training.backbone.network import pixel_network
    from oodguard.training.backbone.timm_source import create, preprocessing_of

    torch.manual_seed(0)
    model = create(name, image_size=size)
    preprocessing = preprocessing_of(model, size)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
            module.momentum = None
    files = sorted(photo.parents[2].glob("train/*/*.png"))[::3]
    pixels = np.stack([load_pixels(file.read_bytes(), preprocessing) for file in files])
    with torch.no_grad():
        for scale in model.parameters():
            if 0 < float(scale.min()) == float(scale.max()) <= LARGEST_START:
                scale.fill_(1.0)
        pixel_network(model, preprocessing)(torch.from_numpy(pixels))
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(state, str(folder / "weights.safetensors"))
    return str(folder / "weights.safetensors")


def _served(name: str, size: int | None, photo: Path, folder: Path, weights: str) -> Line:
    import oodguard
    from oodguard.core.manifest import GRAPH_FILE, load_manifest
    from oodguard.core.preprocessing import load_pixels
    from oodguard.export.bundle import export_bundle
    from oodguard.export.graph import run_graph, session
    from oodguard.training.options import TrainOptions
    from oodguard.training.pipeline import train

    options = TrainOptions(
        data=photo.parents[2],
        backbone=name,
        weights=weights,
        image_size=size,
        cache=folder / "cache",
        views=0,
        fine_tune_epochs=1,
        epochs=5,
        calibration_fraction=0.45,
        check_folds=0,
        out_of_fold=0,
        threads=1,
    )
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    notes = _Notes()
    record = train(options, folder / "run", report=notes)
    seconds["train"] = time.perf_counter() - started
    started = time.perf_counter()
    # What members of an ensemble on random weights make of a few photos says nothing about the backbone.
    export_bundle(folder / "run", folder / "bundle", allow_collusion=True)
    seconds["export"] = time.perf_counter() - started
    started = time.perf_counter()
    manifest = load_manifest(folder / "bundle")
    with oodguard.load(folder / "bundle") as guard:
        prediction = guard.predict(photo).predictions[0]
    seconds["score"] = time.perf_counter() - started
    running = session((folder / "bundle" / GRAPH_FILE).read_bytes(), threads=1)
    files = sorted(photo.parent.glob("*.png"))[:5]
    pixels = np.stack([load_pixels(file.read_bytes(), manifest.preprocessing) for file in files])
    together = run_graph(running, pixels).scores
    alone = np.concatenate([run_graph(running, pixels[i : i + 1]).scores for i in range(len(pixels))])
    worst = max(manifest.parity.max_score_error, key=lambda score: manifest.parity.max_score_error[score])
    return {
        "side": record.preprocessing.crop,
        "width": record.backbone.width,
        "cut": record.backbone.cut,
        "recorded": record.backbone.recorded,
        "frozen_because": notes.frozen,
        "seconds": {part: round(value, 1) for part, value in seconds.items()},
        "label": prediction.label,
        "parity": manifest.parity.max_score_error[worst],
        "parity_score": worst.value,
        "parity_allowed": manifest.parity.allowed(worst),
        "batch_error": float(manifest.calibration.score_errors(alone, together).max()),
        "versions": {package: record.versions[package] for package in ("timm", "torch", "onnxruntime")},
    }


class _Notes:
    """Keeps the note that says why a backbone stays frozen."""

    def __init__(self) -> None:
        self.frozen: str | None = None

    def note(self, text: str) -> None:
        """A line that training tells its user."""
        if " stays frozen" in text:
            self.frozen = text.split(": ", 1)[1]

    def progress(self, what: str, done: int, total: int) -> None:
        """Not kept."""


def read_lines(file: Path) -> dict[str, Line]:
    """The last line of each family."""
    if not file.is_file():
        return {}
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {line["family"]: line for line in found}


def run_families(families: Sequence[str], file: Path, *, minutes: float) -> None:
    """Try each family in a process of its own, and add its line to `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for number, family in enumerate(families, 1):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--family", family, "--folder", folder]
            line: Line
            started = time.perf_counter()
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=60 * minutes, check=False
                )
                line = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else _ended(family, done)
            except subprocess.TimeoutExpired:
                line = {"family": family, "failed": f"not done after {minutes:g} minutes"}
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        said = line.get("failed") or line.get("frozen_because") or f"cut after {line['cut']}"
        print(f"{number}/{len(families)} {family}: {said} ({time.perf_counter() - started:.0f} s)", flush=True)


def _ended(family: str, done: subprocess.CompletedProcess[str]) -> Line:
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"ended with {done.returncode}"]
    return {"family": family, "failed": lines[-1][:300], "traceback": True}


def document(lines: Mapping[str, Line], families: Sequence[str]) -> str:
    """The part of the page that follows from the lines: counts and the table of all `families`."""
    served = [line for line in lines.values() if "failed" not in line]
    tuned = [line for line in served if line["cut"] is not None]
    versions = served[0]["versions"] if served else {}
    named = ", ".join(f"{package} {version}" for package, version in versions.items())
    rows = [
        "| family | smallest member | pixels | cut after | tuned | train, export, score (s) | parity |",
        "|---|---|---|---|---|---|---|",
        *(_row(lines[family]) for family in sorted(lines)),
    ]
    missing = sorted(set(families) - set(lines))
    return (
        f"{len(served)} of {len(lines)} families train, export and serve ({len(served) / max(len(lines), 1):.0%}), and "
        f"{len(tuned)} of them fine-tune, with {named}."
        + (f" {len(missing)} of timm's {len(families)} families were not run: {', '.join(missing)}." if missing else "")
        + "\n\n"
        + "\n".join(rows)
        + "\n"
    )


def _row(line: Line) -> str:
    if "failed" in line:
        member = f"`{line['member']}` | {line['side']}" if "member" in line else "|"
        return f"| `{line['family']}` | {member} | | no: {line['failed']} | | |"
    cut = f"`{line['cut']}`" if line["cut"] else ""
    how = ("recorded" if line["recorded"] else "traced") if line["cut"] else f"frozen: {line['frozen_because']}"
    times = " + ".join(f"{line['seconds'][part]:.0f}" for part in ("train", "export", "score"))
    return (
        f"| `{line['family']}` | `{line['member']}`{' *' if line.get('measured') else ''} | {line['side']} | {cut} | "
        f"{how} | {times} | "
        f"{line['parity_score']} {line['parity']:.0e} |"
    )


def write_page(page: Path, lines: Mapping[str, Line], families: Sequence[str]) -> None:
    """Put the table between the two marks of the page."""
    before, _, after = page.read_text(encoding="utf-8").split(MARK)
    page.write_text(f"{before}{MARK}\n{document(lines, families)}{MARK}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lines", type=Path, default=LINES, help="file of finished families; default: %(default)s")
    parser.add_argument("--only", default="", help="families to run, separated by commas; default: all")
    parser.add_argument("--again", action="store_true", help="run those that failed once more")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for each family; default: %(default)s")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write the table into; default: %(default)s")
    parser.add_argument("--family", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.family:
        print(json.dumps(try_family(given.family, given.folder)))
        return
    from oodguard.training.backbone.timm_loader import timm

    done = read_lines(given.lines)
    wanted = given.only.split(",") if given.only else timm.list_modules()
    missing = [f for f in wanted if f not in done or (given.again and "failed" in done[f])]
    run_families(missing, given.lines, minutes=given.minutes)
    if given.page.is_file():
        write_page(given.page, read_lines(given.lines), timm.list_modules())


if __name__ == "__main__":
    main()

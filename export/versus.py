"""Bundles of one run side by side: time, and what lower precision does to accuracy and detection.

Runs are interleaved, so that a machine whose speed drifts treats all alike. Images are decoded once.

    python -m oodguard.export.versus bundles/photos bundles/photos-int8 --test photos/test --ood clothes=other/clothes
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from oodguard.core.errors import InputError
from oodguard.core.manifest import INPUT_NAME, Manifest, load_manifest
from oodguard.core.verdict import Outputs
from oodguard.evaluation.evaluate import parse_sets
from oodguard.export.graph import run_batches, session
from oodguard.export.photos import pixel_batches
from oodguard.training.metrics import detection
from oodguard.training.photos.labelled import Photo, load_unlabelled
from oodguard.training.progress import Silent

WARM_UP = 5


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="compare bundles of one run: time, accuracy, detection")
    parser.add_argument("bundles", type=Path, nargs="+", help="bundle folders; the first is the reference")
    parser.add_argument("--runs", type=int, default=200, help="timed rounds at batch 1 (fewer at larger batches)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="ONNX Runtime intra-op threads")
    parser.add_argument("--test", type=Path, help="test images in class folders; default: time only")
    parser.add_argument("--ood", action="append", default=[], help="an OOD set as name=folder; may be repeated")
    options = parser.parse_args()
    manifests = {bundle: load_manifest(bundle) for bundle in options.bundles}
    graphs = {bundle: (bundle / manifest.graph).read_bytes() for bundle, manifest in manifests.items()}
    console = Console()
    if options.runs:
        console.print(times(manifests, graphs, rounds=options.runs, threads=options.threads))
    if options.test:
        console.print(quality(manifests, graphs, options.test, parse_sets(options.ood)))


def times(manifests: dict[Path, Manifest], graphs: dict[Path, bytes], *, rounds: int, threads: list[int]) -> Table:
    """Median milliseconds per image, and how many times faster than the first bundle (median over rounds)."""
    shape = next(iter(manifests.values())).preprocessing.shape
    table = Table(title=f"ms per image at {shape[0]} x {shape[1]} px, ONNX Runtime {ort.__version__}")
    table.add_column("threads", justify="right")
    table.add_column("batch", justify="right")
    for manifest in manifests.values():
        table.add_column(manifest.precision, justify="right")
    for count in threads:
        running = [session(graph, threads=count) for graph in graphs.values()]
        for batch in (1, 8):
            images = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8)
            found = np.array(
                [[_seconds(one, images) for one in running] for _ in range(max(rounds // batch, 20) + WARM_UP)]
            )[WARM_UP:]
            cells = []
            for column in range(len(running)):
                median = np.median(found[:, column]) * 1e3 / batch
                faster = np.median(found[:, 0] / found[:, column])
                cells.append(f"{median:.2f}" + (f" ({faster:.2f}x)" if column else ""))
            table.add_row(str(count), str(batch), *cells)
    return table


def _seconds(running: ort.InferenceSession, images: np.ndarray) -> float:
    started = time.perf_counter()
    running.run(None, {INPUT_NAME: images})
    return time.perf_counter() - started


def quality(manifests: dict[Path, Manifest], graphs: dict[Path, bytes], test: Path, ood: dict[str, Path]) -> Table:
    """Accuracy, acceptance and detection by the fused score, in percent; each bundle by its own thresholds."""
    running = [session(graph) for graph in graphs.values()]
    first = next(iter(manifests.values()))

    def answers(photos: tuple[Photo, ...]) -> list[Outputs]:
        return run_batches(running, pixel_batches(photos, first.preprocessing, stage="images", report=Silent()))

    photos = load_unlabelled(test)
    known = tuple(photo for photo in photos if photo.label in first.classes)
    test_outputs = answers(known)
    ood_outputs = {name: answers(load_unlabelled(folder)) for name, folder in ood.items()}
    if len(test_outputs[0].scores) != len(known):
        raise InputError(f"some images under {test} cannot be read")
    targets = np.array([first.classes.index(photo.label) for photo in known])
    table = Table(title=f"{len(known)} test images, in percent")
    for column in ("bundle", "MB", "accuracy", "labels as first", "accepted", *(f"FPR95 / AUROC {n}" for n in ood)):
        table.add_column(column, justify="right")
    for i, (bundle, manifest) in enumerate(manifests.items()):
        calibration = manifest.calibration
        labels = test_outputs[i].probabilities.argmax(1)
        fused = calibration.fused(test_outputs[i])
        threshold = calibration.thresholds(manifest.targets.accept).fused
        cells = [
            f"{bundle.name} ({manifest.precision})",
            f"{len(graphs[bundle]) / 1e6:.1f}",
            f"{100 * np.mean(labels == targets):.2f}",
            f"{100 * np.mean(labels == test_outputs[0].probabilities.argmax(1)):.2f}",
            f"{100 * np.mean(fused <= threshold):.1f}",
        ]
        for found in ood_outputs.values():
            detected = detection(fused, calibration.fused(found[i]), threshold)
            cells.append(f"{100 * detected.ood_accepted_at_95_id:.2f} / {100 * detected.auroc:.2f}")
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    main()

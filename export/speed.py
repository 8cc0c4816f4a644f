"""How long the graphs of bundles take: interleaved, so that a machine whose speed drifts treats all alike."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from oodguard.core.manifest import INPUT_NAME, load_manifest
from oodguard.export.graph import session

WARM_UP = 5
BATCHES = (1, 8)
FEWEST_ROUNDS = 20


@dataclass(frozen=True)
class MeasuredSpeed:
    """Median milliseconds per image of each graph, and how many times faster it is than the first."""

    threads: int
    batch: int
    milliseconds: tuple[float, ...]
    faster: tuple[float, ...]


def speeds(bundles: Sequence[Path], *, rounds: int, threads: Sequence[int]) -> Iterator[MeasuredSpeed]:
    """Time the graphs of bundles by ONNX Runtime at batch 1 (`rounds` times) and 8, for each number of threads."""
    manifests = [load_manifest(bundle) for bundle in bundles]
    graphs = [(bundle / manifest.graph).read_bytes() for bundle, manifest in zip(bundles, manifests, strict=True)]
    for count in threads:
        running = [session(graph, threads=count) for graph in graphs]
        for batch in BATCHES:
            images = [
                np.random.default_rng(0).integers(0, 256, (batch, *manifest.preprocessing.shape), dtype=np.uint8)
                for manifest in manifests
            ]
            found = np.array(
                [
                    [_seconds(one, given) for one, given in zip(running, images, strict=True)]
                    for _ in range(max(rounds // batch, FEWEST_ROUNDS) + WARM_UP)
                ]
            )[WARM_UP:]
            yield MeasuredSpeed(
                threads=count,
                batch=batch,
                milliseconds=tuple((np.median(found, axis=0) * 1e3 / batch).tolist()),
                faster=tuple(np.median(found[:, :1] / found, axis=0).tolist()),
            )


def _seconds(running: ort.InferenceSession, images: np.ndarray) -> float:
    started = time.perf_counter()
    running.run(None, {INPUT_NAME: images})
    return time.perf_counter() - started

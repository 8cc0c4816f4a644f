"""The part every peer shares: the same bundle, the same decode and resize, the same graph, the same answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from typing_extensions import TypedDict

from oodguard.export.contract import INPUT_NAME, PROBABILITIES_NAME, SCORES_NAME, load_manifest
from oodguard.training.preprocess import Pixels, load_pixels

BUNDLE_VARIABLE = "PEER_BUNDLE"


class Answer(TypedDict):
    """What a peer returns for an image."""

    label: str
    probability: float
    probabilities: list[float]
    scores: dict[str, float]


class Graph:
    """A bundle's graph on the CPU. `threads`: ONNX Runtime threads a run; 0 leaves its default."""

    def __init__(self, bundle: Path, *, threads: int = 0) -> None:
        self._manifest = load_manifest(bundle)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        path = str(bundle / self._manifest.graph)
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @classmethod
    def from_environment(cls, *, threads: int = 0) -> Graph:
        """The graph of the bundle that the starting script named."""
        return cls(Path(os.environ[BUNDLE_VARIABLE]), threads=threads)

    def pixels(self, data: bytes) -> Pixels:
        """Decode and resize one image."""
        return load_pixels(data, self._manifest.preprocessing)

    def run(self, pixels: Sequence[Pixels]) -> list[Answer]:
        """One run over a batch."""
        found = self._session.run([PROBABILITIES_NAME, SCORES_NAME], {INPUT_NAME: np.stack(pixels)})
        return [self._answer(p, s) for p, s in zip(*found, strict=True)]

    def answer(self, images: Sequence[bytes]) -> list[Answer]:
        """Decode, resize and run a batch."""
        return self.run([self.pixels(image) for image in images])

    def _answer(self, probabilities: np.ndarray, scores: np.ndarray) -> Answer:
        best = int(probabilities.argmax())
        return Answer(
            label=self._manifest.classes[best],
            probability=float(probabilities[best]),
            probabilities=probabilities.tolist(),
            scores=dict(zip(self._manifest.score_names, scores.tolist(), strict=True)),
        )

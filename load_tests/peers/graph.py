"""What every peer shares: the same bundle, the same decode and resize, the same graph, the same answer."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from typing_extensions import TypedDict

from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME, SCORES_NAME, load_manifest
from oodguard.core.preprocessing import Pixels, load_pixels

BUNDLE_VARIABLE = "PEER_BUNDLE"
SETTINGS_VARIABLE = "PEER_SETTINGS"


class PeerAnswer(TypedDict):
    """What a peer returns for an image."""

    label: str
    probability: float
    probabilities: list[float]
    scores: dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How a peer is run: processes, ONNX Runtime threads per run (0: its default), runs at a time, batch and wait."""

    workers: int
    threads: int
    parallel: int
    batch: int
    wait: float

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings of the process that started this one."""
        return cls(**json.loads(os.environ[SETTINGS_VARIABLE]))


def parse_settings(description: str | None, *, default: Settings) -> tuple[int, Settings]:
    """The port and the settings from the command line; worker processes find them in the environment."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--workers", type=int, default=default.workers, help="processes that run the graph")
    parser.add_argument("--threads", type=int, default=default.threads, help="ONNX Runtime threads per run; 0: default")
    parser.add_argument("--parallel", type=int, default=default.parallel, help="runs at a time in a process; 0: any")
    parser.add_argument("--batch", type=int, default=default.batch, help="maximum of images in a run")
    parser.add_argument("--wait", type=float, default=default.wait, help="seconds to wait for a batch to fill")
    options = vars(parser.parse_args())
    os.environ[BUNDLE_VARIABLE] = str(options.pop("bundle").resolve())
    port = options.pop("port")
    os.environ[SETTINGS_VARIABLE] = json.dumps(options)
    return port, Settings(**options)


class Graph:
    """A bundle's graph on the CPU. `threads`: ONNX Runtime threads per run; 0 leaves its default."""

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

    def run(self, pixels: Sequence[Pixels]) -> list[PeerAnswer]:
        """One run over a batch."""
        found = self._session.run([PROBABILITIES_NAME, SCORES_NAME], {INPUT_NAME: np.stack(pixels)})
        return [self._answer(p, s) for p, s in zip(*found, strict=True)]

    def answer(self, images: Sequence[bytes]) -> list[PeerAnswer]:
        """Decode, resize and run a batch."""
        return self.run([self.pixels(image) for image in images])

    def _answer(self, probabilities: np.ndarray, scores: np.ndarray) -> PeerAnswer:
        best = int(probabilities.argmax())
        return PeerAnswer(
            label=self._manifest.classes[best],
            probability=float(probabilities[best]),
            probabilities=probabilities.tolist(),
            scores=dict(zip(self._manifest.score_names, scores.tolist(), strict=True)),
        )

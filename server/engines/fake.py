"""A real engine without a graph, for tests: it answers from the pixels, and can fail or hang on request."""

from __future__ import annotations

import asyncio

import numpy as np

from oodguard.export.contract import Manifest, Outputs
from oodguard.server.engines.base import Batch
from oodguard.server.errors import EngineError, EngineUnavailable


class FakeEngine:
    """Class = brightness of the image in C steps; every score grows with the image's contrast.

    `fail_next` makes the next batch fail, `delay` makes every batch wait, `seen` lists the batch sizes.
    """

    name = "fake"
    device = "cpu"

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.fail_next = False
        self.delay = 0.0
        self.seen: list[int] = []
        self._closed = False

    async def infer(self, images: Batch) -> Outputs:
        """Answers for one batch."""
        if self._closed:
            raise EngineUnavailable("the engine is closed")
        self.seen.append(len(images))
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.fail_next:
            self.fail_next = False
            raise EngineError("the engine was told to fail")
        classes, count = len(self._manifest.classes), len(self._manifest.scores)
        pixels = images.reshape(len(images), -1).astype(np.float32) / 255.0
        chosen = np.minimum((pixels.mean(1) * classes).astype(int), classes - 1)
        probabilities = np.full((len(images), classes), 0.1 / max(classes - 1, 1), dtype=np.float32)
        probabilities[np.arange(len(images)), chosen] = 0.9
        scores = np.repeat(pixels.std(1)[:, None], count, axis=1).astype(np.float32)
        return Outputs(probabilities=probabilities, scores=scores)

    async def close(self) -> None:
        """Refuse further work."""
        self._closed = True

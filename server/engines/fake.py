"""A real engine without a graph, for tests: it answers from the pixels, and can fail, hang or die on request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from oodguard.core.bank import Bank
from oodguard.core.manifest import Manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.verdict import Outputs
from oodguard.server.engines.base import Batch
from oodguard.server.errors import EngineError, EngineUnavailable


class FakeEngine:
    """Class = brightness of the image in C steps, and so is the nearest photo of the bank; every score grows with the
    image's contrast.

    The bundle's golden images are answered as its manifest says, so that a server takes it for the real thing.

    `fail_next` makes the next batch fail, `broken` every batch, `delay` makes every batch wait, `gate` (when set to an
    event) makes every batch wait for it, `seen` lists the batch sizes.
    """

    name = "fake"
    device = "cpu"

    def __init__(self, bundle: Path, manifest: Manifest, *, slots: int = 1) -> None:
        self._manifest = manifest
        self._golden = {
            load_pixels((bundle / g.path).read_bytes(), manifest.preprocessing).tobytes(): g for g in manifest.golden
        }
        self.slots = slots
        self.fail_next = False
        self.broken = False
        self.delay = 0.0
        self.gate: asyncio.Event | None = None
        self.seen: list[int] = []
        self._closed = False
        self._bank = len(Bank.read(bundle / manifest.bank)) if manifest.bank else None
        self._nearest = int(manifest.outputs[-1].shape[1])

    async def infer(self, images: Batch) -> Outputs:
        """Answers for one batch."""
        if self._closed:
            raise EngineUnavailable("the engine is closed")
        self.seen.append(len(images))
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.gate is not None:
            await self.gate.wait()
        if self.fail_next:
            self.fail_next = False
            raise EngineError("the engine was told to fail")
        if self.broken:
            raise EngineError("the engine is broken")
        classes, count = len(self._manifest.classes), len(self._manifest.scores)
        pixels = images.reshape(len(images), -1).astype(np.float32) / 255.0
        chosen = np.minimum((pixels.mean(1) * classes).astype(int), classes - 1)
        probabilities = np.full((len(images), classes), 0.1 / max(classes - 1, 1), dtype=np.float32)
        probabilities[np.arange(len(images)), chosen] = 0.9
        scores = np.repeat(pixels.std(1)[:, None], count, axis=1).astype(np.float32)
        for row, image in enumerate(images):
            golden = self._golden.get(image.tobytes())
            if golden is not None:
                probabilities[row], scores[row] = golden.probabilities, golden.scores
        if self._bank is None:
            return Outputs(probabilities=probabilities, scores=scores)
        # The photos of the bank from the image's brightness on, each a tenth farther.
        places = np.arange(self._nearest)
        rows = (np.floor(pixels.mean(1) * self._bank)[:, None].astype(np.int32) + places) % self._bank
        distances = np.repeat((places / 10)[None], len(images), axis=0).astype(np.float32)
        return Outputs(
            probabilities=probabilities, scores=scores, neighbours=rows.astype(np.int32), distances=distances
        )

    async def close(self) -> None:
        """Refuse further work."""
        self._closed = True

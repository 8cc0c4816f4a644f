"""Guards around engines that are no graph."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import ImageLimits, Pixels
from oodguard.core.verdict import Outputs
from oodguard.server.batch_judge import BatchJudge
from oodguard.server.engines.base import Batch
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.guard import Guard
from oodguard.server.tuning import EnginePlan

WAIT = 30


class Gated(FakeEngine):
    """An engine whose batches wait until `opened` is set, on whatever event loop they run."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.opened = threading.Event()
        self.begun = self.ended = 0

    async def infer(self, images: Batch) -> Outputs:
        self.begun += 1
        while not self.opened.is_set():
            await asyncio.sleep(0.001)
        outputs = await super().infer(images)
        self.ended += 1
        return outputs


class Blind(FakeEngine):
    """Returns NaN for a whole batch as soon as one of its images is black."""

    async def infer(self, images: Batch) -> Outputs:
        outputs = await super().infer(images)
        if (images.reshape(len(images), -1).max(axis=1) == 0).any():
            return Outputs(probabilities=outputs.probabilities * np.float32(np.nan), scores=outputs.scores)
        return outputs


@contextmanager
def guarded(
    bundle: Path,
    engine: type[FakeEngine] = FakeEngine,
    *,
    kind: type[Any] = Guard,
    slots: int = 2,
    max_batch: int = 4,
    workers: int | None = None,
) -> Iterator[tuple[Any, Any]]:
    """A guard of this kind, and its engine."""
    manifest = load_manifest(bundle)
    fake = engine(bundle, manifest, slots=slots)
    plan = EnginePlan(sessions=slots, threads=1, max_batch=max_batch)
    judge = BatchJudge(manifest, fake, plan, limits=ImageLimits(), workers=workers)
    try:
        yield kind(judge), fake
    finally:
        if isinstance(fake, Gated):
            fake.opened.set()
        judge.close()


def grey(level: int) -> Pixels:
    """An image whose class is its brightness, to the fake engine."""
    return np.full((32, 32, 3), level, dtype=np.uint8)

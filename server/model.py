"""One bundle in service: its manifest, its engine, its batcher, and the check that it answers as it promised."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from oodguard.export.contract import Manifest, Outputs, load_manifest
from oodguard.server.batcher import Batcher, Watch
from oodguard.server.engines.base import Engine
from oodguard.server.engines.build import build_engine
from oodguard.server.errors import EngineError
from oodguard.server.settings import ServeSettings
from oodguard.server.tuning import Plan, plan_for
from oodguard.training.errors import ImageError, QualityError
from oodguard.training.preprocess import load_pixels


class ServedModel:
    """A loaded bundle. Requests hold a lease on the model they started with, so a replaced one ends only after them."""

    def __init__(
        self, bundle: Path, manifest: Manifest, engine: Engine, plan: Plan, settings: ServeSettings, watch: Watch
    ) -> None:
        self.bundle = bundle
        self.manifest = manifest
        self.engine = engine
        self.plan = plan
        self.batcher = Batcher(
            engine,
            manifest,
            max_batch=plan.max_batch,
            max_delay=settings.max_delay,
            stall_after=settings.stall_after,
            watch=watch,
        )
        self._leases = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @classmethod
    def load(cls, settings: ServeSettings, watch: Watch, *, engine: Engine | None = None) -> ServedModel:
        """Verify the bundle's files and start its engine; raises `FormatError` or `EnvironmentProblem`."""
        manifest, plan, built = _load(settings, engine)
        return cls(settings.bundle, manifest, built, plan, settings, watch)

    @classmethod
    async def load_beside(cls, settings: ServeSettings, watch: Watch) -> ServedModel:
        """The same, without holding up the event loop."""
        manifest, plan, built = await asyncio.to_thread(_load, settings, None)
        return cls(settings.bundle, manifest, built, plan, settings, watch)

    @contextmanager
    def lease(self) -> Iterator[ServedModel]:
        """Keep the model alive while a request uses it."""
        self._leases += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._leases -= 1
            if not self._leases:
                self._unused.set()

    async def defect(self) -> str | None:
        """Answer the golden images on every slot and compare with the manifest: what differs, or None."""
        golden = self.manifest.golden
        try:
            images = np.stack(
                [load_pixels((self.bundle / g.path).read_bytes(), self.manifest.preprocessing) for g in golden]
            )
            # The first answer is the check; the others warm the slots up, on batches as long as real ones.
            outputs = await self._infer(images)
            full = np.resize(images, (self.plan.max_batch, *images.shape[1:]))
            await asyncio.gather(*(self.engine.infer(full) for _ in range(self.engine.slots)))
            verdicts = self.manifest.judge(outputs)
        except (ImageError, QualityError, EngineError, OSError) as error:
            return f"the golden images could not be answered ({error})"
        wrong = [g.path for g, v in zip(golden, verdicts, strict=True) if (g.label, g.is_ood) != (v.label, v.is_ood)]
        if wrong:
            return f"the verdict on {wrong[0]} is not the one in the manifest"
        tolerance = self.manifest.parity.tolerance
        worst = float(self.manifest.score_errors([g.scores for g in golden], outputs.scores).max())
        if worst > tolerance:
            return f"scores of the golden images differ from the manifest's by {worst:.1e} (allowed {tolerance:g})"
        return None

    async def _infer(self, images: np.ndarray) -> Outputs:
        size = self.plan.max_batch
        parts = [await self.engine.infer(images[start : start + size]) for start in range(0, len(images), size)]
        return Outputs(
            probabilities=np.concatenate([part.probabilities for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
        )

    async def retire(self, timeout: float) -> None:
        """Wait for the last lease, then close the engine; after `timeout` seconds close it regardless."""
        try:
            async with asyncio.timeout(timeout):
                await self._unused.wait()
                await self.batcher.drained()
        except TimeoutError:
            pass
        await self.engine.close()


def _load(settings: ServeSettings, engine: Engine | None) -> tuple[Manifest, Plan, Engine]:
    manifest = load_manifest(settings.bundle)
    plan = plan_for(settings, manifest)
    return manifest, plan, engine or build_engine(settings.bundle, manifest, plan, device=settings.device)

"""One bundle in service: its manifest, its engine, its batcher, and the check that it answers as promised."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Unpack

import numpy as np

from oodguard.core.answers import ModelRef
from oodguard.core.codes import Code
from oodguard.core.errors import FormatError
from oodguard.core.explainer import Explainer
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.preprocessing import Pixels
from oodguard.core.targets import Asked, Targets
from oodguard.core.thumbnails import Thumbnails
from oodguard.core.verdict import Thresholds
from oodguard.server.arrival import fingerprint
from oodguard.server.batcher import Batcher, MeasuredImage
from oodguard.server.condition import Condition
from oodguard.server.engines.base import Engine, RemoteEngine
from oodguard.server.engines.registry import REMOTE, build_engine
from oodguard.server.errors import EngineError, RequestError
from oodguard.server.golden import defect_of
from oodguard.server.logs import server as log
from oodguard.server.metrics import Metrics
from oodguard.server.sender import Sender
from oodguard.server.settings import ServeSettings
from oodguard.server.tuning import EnginePlan
from oodguard.server.workers.share import plan_of

# Callers ask for few targets, over and over.
THRESHOLDS_KEPT = 256
# Seconds between two looks at whether a model that failed answers the golden images again.
ASK_AGAIN = 2.0


class ServedModel:
    """A loaded bundle. Requests hold a lease on the model they started with, so a replaced one ends only after them.

    `explainer` explains answers; `thumbnails` are of its training photos, where the bundle has them.

    The engine runs in this process as `plan` says, or it is a `remote` one. `bundle` is where the golden images are;
    None where a remote engine brought its own. `fingerprint` is the hash of its manifest. `targets` are for
    requests that name none.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics, *, engine: Engine | None = None) -> None:
        """Verify the bundle's files and start its engine.

        Raises `FormatError`, `EnvironmentProblem`, or `RequestError` for a target the calibration cannot promise.
        """
        self.bundle = settings.bundle
        self.plan: EnginePlan | None = None
        self.remote: RemoteEngine | None = None
        # Read before the manifest is: where the bundle is replaced in between, it is loaded once more.
        self.fingerprint = fingerprint(self.bundle / MANIFEST_FILE) if self.bundle else None
        if settings.engine in REMOTE:
            self.explainer, self.remote = REMOTE[settings.engine].loader()(settings)
        elif self.bundle is not None:
            self.explainer = Explainer.load(self.bundle, load_manifest(self.bundle, trust=settings.trusted))
        else:
            raise FormatError("there is no bundle to serve")
        self.manifest = self.explainer.manifest
        if settings.model_name is not None:
            self.manifest = self.manifest.model_copy(update={"name": settings.model_name})
        self.ref = ModelRef(name=self.manifest.name, version=self.manifest.version)
        self._thresholds = lru_cache(THRESHOLDS_KEPT)(self.manifest.thresholds)
        self.targets = self.manifest.targets
        self.targets, _ = self.asked(**settings.asked)
        for source in self.manifest.sources:
            self.asked(source=source, **settings.asked)
        self.condition = Condition(metrics, self._doubt)
        self._asking: asyncio.Task[None] | None = None
        self.batcher: Batcher | Sender
        if self.remote is not None:
            self.engine: Engine = self.remote
            self.batcher = Sender(self.remote, self.manifest, events=self.condition)
        else:
            assert self.bundle is not None
            self.plan = plan_of(settings, self.manifest)
            self.engine = engine or build_engine(self.bundle, self.manifest, self.plan, device=settings.device)
            self.batcher = Batcher(
                self.engine,
                self.manifest,
                max_batch=self.plan.max_batch,
                max_delay=settings.max_delay,
                stall_after=settings.stall_after,
                events=self.condition,
            )
        pictures = self.manifest.thumbnails
        self.thumbnails = Thumbnails(self.bundle / pictures) if self.bundle and pictures else None
        self._leases = 0
        self._unused = asyncio.Event()
        self._unused.set()

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

    @property
    def runs_on(self) -> str:
        """What runs the graph, for people."""
        if self.plan is None:
            return f"{self.engine.name} on {self.engine.device}"
        return (
            f"{self.engine.name} on {self.engine.device} ({self.engine.slots} x {self.plan.threads} threads, batches "
            f"of up to {self.plan.max_batch})"
        )

    @property
    def at_once(self) -> int | None:
        """How many images keep the engine busy: those that run, and as many that are ready; None for a remote one."""
        return 2 * self.engine.slots * self.plan.max_batch if self.plan else None

    @property
    def unreachable(self) -> str | None:
        """Why a remote engine cannot be asked at the moment; None where it can, or runs here."""
        return self.remote.unreachable if self.remote else None

    def asked(self, *, source: str | None = None, **asked: Unpack[Asked]) -> tuple[Targets, Thresholds]:
        """The targets of a request that asks for these, and every threshold at them.

        Raises `RequestError` for a target out of its range, or one that the calibration cannot promise, and for an
        unknown source.
        """
        try:
            targets = self.targets.but(**asked)
            return targets, self._thresholds(targets, source=source)
        except ValueError as error:
            raise RequestError(Code.BAD_PARAMETER, str(error)) from None

    def submit(
        self, pixels: Pixels, *, deadline: float, source: str | None, neighbours: bool
    ) -> asyncio.Future[MeasuredImage]:
        """Have one image measured, with its `neighbours` if they are needed: here they cost nothing, remotely little.

        The future fails as that of `Batcher.submit` and of `Sender.submit` does.
        """
        if isinstance(self.batcher, Sender):
            return self.batcher.submit(pixels, deadline=deadline, source=source, neighbours=neighbours)
        return self.batcher.submit(pixels, deadline=deadline, source=source)

    async def check(self) -> str | None:
        """Answer the golden images and compare with the manifest: what differs, or None; the condition has it, too.

        A remote engine checks its servers itself, now and whenever one returns, so it is never a defect.
        """
        if self.remote is not None:
            self.condition.defect = None
            return await self.remote.start()
        self.condition.defect = await self._difference()
        return self.condition.defect

    async def _difference(self) -> str | None:
        assert self.plan is not None
        assert self.bundle is not None
        size = self.plan.max_batch
        try:
            # Warms every slot up, on batches as long as real ones.
            full = np.zeros((size, *self.manifest.preprocessing.shape), dtype=np.uint8)
            await asyncio.gather(*(self.engine.infer(full) for _ in range(self.engine.slots)))
        except EngineError as error:
            return f"the engine cannot be warmed up ({error})"
        return await defect_of(self.bundle, self.manifest, self.engine, max_batch=size)

    def _doubt(self) -> None:
        """Ask the golden images again, beside the requests. A remote engine looks after its servers itself."""
        if self.remote is None and (self._asking is None or self._asking.done()):
            self._asking = asyncio.get_running_loop().create_task(self._ask_again())

    async def _ask_again(self) -> None:
        """Keep the model from answering for as long as the golden images say that it cannot."""
        condition = self.condition
        while defect := await self._difference():
            if condition.defect is None:
                log.error("not ready: inferences fail, and %s", defect)
            condition.defect = defect
            await asyncio.sleep(ASK_AGAIN)
        if condition.defect is not None:
            log.warning("ready again: the golden images are answered as they must be")
        condition.defect = None

    async def retire(self, timeout: float) -> None:
        """Wait for the last lease, then close the engine; after `timeout` seconds close it regardless."""
        try:
            async with asyncio.timeout(timeout):
                await self._unused.wait()
                await self.batcher.drained()
        except TimeoutError:
            pass
        await self.close()

    async def close(self) -> None:
        """Close the engine and the file of thumbnails."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self.engine.close()
        if self.thumbnails is not None:
            self.thumbnails.close()

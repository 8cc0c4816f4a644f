"""Judges batches of images in this process: decodes in threads, runs the engine, gives verdicts.

A judge works on an event loop in a thread of its own, so any number of threads and event loops may call it, and it
blocks none of them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from oodguard.core.codes import Code
from oodguard.core.decoding import DecodingRoom
from oodguard.core.errors import ImageError, QualityError
from oodguard.core.explainer import Explainer
from oodguard.core.images import ImageLike, picture_of
from oodguard.core.manifest import Manifest
from oodguard.core.preprocessing import ImageLimits
from oodguard.core.quality import Picture, Traits
from oodguard.core.targets import Targets
from oodguard.core.verdict import Outcome, Outputs
from oodguard.server.engines.base import Engine
from oodguard.server.engines.registry import Device, build_engine
from oodguard.server.errors import EngineError, EngineUnavailable
from oodguard.server.golden import defect_of
from oodguard.server.tuning import EnginePlan

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(slots=True)
class JudgedBatch:
    """The outcomes of a batch, in its order, and the seconds it spent in each stage.

    outputs: what the graph returned for the images that have a verdict, in parts. traits: of each image's picture; None
    where it cannot be decoded.
    """

    outcomes: list[Outcome]
    traits: list[Traits | None]
    outputs: list[Outputs] = field(default_factory=list)
    decode: float = 0.0
    queue: float = 0.0
    inference: float = 0.0
    judge: float = 0.0


class BatchJudge:
    """One bundle and its engine, run as `plan` says. Threads may share it.

    ```python
    judge = BatchJudge.open(bundle, manifest, plan, limits=ImageLimits())
    for paths, judged in judge.each(batches, read=lambda path: path, targets=manifest.targets, top_k=1): ...
    ```

    `workers` threads decode images; by default one more than the engine has slots. At most as many batches, and one
    more than there are slots, are in memory as pixels, so that one is decoded while every slot runs another.
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        plan: EnginePlan,
        *,
        limits: ImageLimits,
        workers: int | None = None,
        explainer: Explainer | None = None,
    ) -> None:
        self.manifest = manifest
        self.explainer = explainer or Explainer(manifest)
        self.engine = engine
        self.plan = plan
        self._limits = limits
        self._decoding = DecodingRoom.of(limits.max_pixels)
        self._workers = workers or engine.slots + 1
        self._decoders = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        self._max_held = max(self._workers, engine.slots + 1)
        self._room = asyncio.Semaphore(self._max_held)
        self._slots = asyncio.Semaphore(engine.slots)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="oodguard", daemon=True)
        self._thread.start()
        self._process = os.getpid()
        self._gate = threading.Lock()
        # Called by `close`, or when nobody refers to the judge any more; at exit its threads end with the process.
        self._finish = weakref.finalize(self, _finish, self._loop, self._decoders, engine)
        self._finish.atexit = False

    @classmethod
    def open(
        cls,
        bundle: Path,
        manifest: Manifest,
        plan: EnginePlan,
        *,
        limits: ImageLimits,
        device: Device = "auto",
        workers: int | None = None,
    ) -> BatchJudge:
        """Start the engine that `plan` asks for, and check it on the bundle's golden images.

        Raises `FormatError` or `EnvironmentProblem` when the engine cannot run the graph here, and `QualityError` when
        it does not answer the golden images as the manifest says.
        """
        explainer = Explainer.load(bundle, manifest)
        engine = build_engine(bundle, manifest, plan, device=device)
        judge = cls(manifest, engine, plan, limits=limits, workers=workers, explainer=explainer)
        defect = judge.submit(defect_of(bundle, manifest, judge.engine, max_batch=plan.max_batch)).result()
        if defect:
            judge.close()
            raise QualityError(
                f"{bundle} does not answer as it was exported ({defect}); choose another engine, or export it again"
            )
        return judge

    @property
    def runs_on(self) -> str:
        """What runs the graph, for people."""
        engine, plan = self.engine, self.plan
        return f"{engine.name} on {engine.device}, {engine.slots} x {plan.threads} threads, batch {plan.max_batch}"

    def submit(self, work: Coroutine[Any, Any, Found]) -> Future[Found]:
        """Run `work` on the judge's event loop. Raises `EngineUnavailable` after `close` and in a forked process."""
        if os.getpid() != self._process:
            work.close()
            raise EngineUnavailable("the bundle was loaded before this process was forked; load it again here")
        with self._gate:
            if self._finish.alive:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise EngineUnavailable("the guard is closed; load the bundle again")

    def each(
        self,
        batches: Iterable[Sequence[Given]],
        *,
        read: Callable[[Given], ImageLike],
        targets: Targets,
        top_k: int,
        source: str | None = None,
        explain: bool = False,
    ) -> Generator[tuple[Sequence[Given], Future[JudgedBatch]], None, None]:
        """Yield every batch, in order, with the future of its outcomes; wait for that before you take the next batch.

        The engine runs these very batches. `read` turns what a batch holds into an image, in a thread; it may raise
        `ImageError`. The generator takes twice as many batches ahead as are in memory as pixels, so that one slow batch
        does not stop those behind it. Close the generator to withdraw them.
        """
        waiting: deque[tuple[Sequence[Given], Future[JudgedBatch]]] = deque()
        try:
            for batch in batches:
                if len(waiting) == 2 * self._max_held:
                    yield waiting.popleft()
                work = self.batch(batch, read=read, targets=targets, top_k=top_k, source=source, explain=explain)
                waiting.append((batch, self.submit(work)))
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()

    async def batch(
        self,
        images: Sequence[Given],
        *,
        read: Callable[[Given], ImageLike],
        targets: Targets,
        top_k: int,
        source: str | None = None,
        explain: bool = False,
    ) -> JudgedBatch:
        """A verdict, explained or not, or an `ImageError` for each image of one batch, of a known source.

        To be run by `submit`.
        """
        entered = time.monotonic()
        async with self._room:
            started = time.monotonic()
            share = -(-len(images) // self._workers)
            parts = (images[start : start + share] for start in range(0, len(images), share))
            decode = (self._loop.run_in_executor(self._decoders, self._decode, part, read) for part in parts)
            pictures = list(itertools.chain.from_iterable(await asyncio.gather(*decode)))
            traits = [None if isinstance(one, ImageError) else one.traits for one in pictures]
            judged = JudgedBatch([], traits, decode=time.monotonic() - started, queue=started - entered)
            good = [picture for picture in pictures if not isinstance(picture, ImageError)]
            verdicts = iter(await self._verdicts(good, judged, targets, top_k, source, explain))
        judged.outcomes = [picture if isinstance(picture, ImageError) else next(verdicts) for picture in pictures]
        return judged

    def _decode(self, images: Sequence[Given], read: Callable[[Given], ImageLike]) -> list[Picture | ImageError]:
        found: list[Picture | ImageError] = []
        for image in images:
            try:
                found.append(picture_of(read(image), self.manifest.preprocessing, self._limits, self._decoding))
            except ImageError as error:
                found.append(error)
        return found

    async def _verdicts(
        self,
        pictures: Sequence[Picture],
        judged: JudgedBatch,
        targets: Targets,
        top_k: int,
        source: str | None,
        explain: bool,
    ) -> Sequence[Outcome]:
        if not pictures:
            return []
        decoded = time.monotonic()
        try:
            async with self._slots:
                started = time.monotonic()
                outputs = await self.engine.infer(np.stack([picture.pixels for picture in pictures]))
            ended = time.monotonic()
            measured = self.manifest.measure(outputs, source=source)
        except EngineUnavailable:
            raise
        except (EngineError, QualityError) as error:
            if len(pictures) == 1:
                return [ImageError(Code.ENGINE_FAILED, str(error))]
            # One image must not cost its batch-mates their answers.
            return [
                one
                for picture in pictures
                for one in await self._verdicts([picture], judged, targets, top_k, source, explain)
            ]
        traits = [picture.traits for picture in pictures]
        verdicts = self.manifest.verdicts(measured, targets=targets, top_k=top_k, source=source, traits=traits)
        judged.outputs.append(outputs)
        if explain:
            verdicts = [
                verdict.model_copy(update={"explanation": self.explainer.explain(measured, row)})
                for row, verdict in enumerate(verdicts)
            ]
        judged.queue += started - decoded
        judged.inference += ended - started
        judged.judge += time.monotonic() - ended
        return verdicts

    def close(self) -> None:
        """Refuse further work, let what is under way finish, then release threads and memory."""
        with self._gate:
            self._finish()
        if os.getpid() == self._process:
            self._thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _finish(loop: asyncio.AbstractEventLoop, decoders: ThreadPoolExecutor, engine: Engine) -> None:
    """End a judge's loop after its last work. Does not wait, because any thread may call it, the loop's own too."""

    async def finish() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        decoders.shutdown(wait=False)
        try:
            await engine.close()
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(finish(), loop)

"""Images of a part to rows: batches are read and decoded in threads while others run in the engine."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from oodguard.core.errors import EnvironmentProblem, FormatError, ImageError, QualityError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.preprocessing import ImageLimits, Pixels, load_pixels
from oodguard.server.engines.base import Engine
from oodguard.server.engines.registry import Device, build_engine
from oodguard.server.errors import EngineError, EngineUnavailable
from oodguard.server.offline.items import Item
from oodguard.server.offline.reader import Reader
from oodguard.server.offline.results import Outcome, columns, table
from oodguard.server.tuning import EnginePlan

Part = tuple[int, Sequence[Item]]
Result = TypeVar("Result")


@dataclass
class Tally:
    """What some images came to."""

    images: int = 0
    flagged: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Tally:
        """Count outcomes."""
        tally = cls()
        for outcome in outcomes:
            tally.images += 1
            if isinstance(outcome, ImageError):
                tally.errors[outcome.code] = tally.errors.get(outcome.code, 0) + 1
            else:
                tally.flagged += outcome.is_ood
        return tally


@dataclass
class _Part:
    """A part whose batches are being scored; `outcomes` by the index of a batch's first image."""

    number: int
    items: Sequence[Item]
    batches: int
    outcomes: dict[int, list[Outcome]] = field(default_factory=dict)


class Spec(BaseModel):
    """Everything a scorer needs, as one record of text: it travels to other machines.

    landmark: a file or folder that must be there, or the images are not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    bundle_sha256: str
    plan: EnginePlan
    base: Path
    landmark: Path | None = None
    limits: ImageLimits
    accept: float
    device: Device = "auto"
    workers: int | None = None


class Scorer:
    """A loaded bundle that scores parts.

    ```python
    with Scorer(spec) as scorer:
        asyncio.run(scorer.run(parts, keep=ledger.keep, scored=lambda tally: None))
    ```

    The batches of a part hold the same images however many run at once, so that its rows are the same on every machine
    that computes alike. At most `workers` batches are in memory. Raises `FormatError` or `EnvironmentProblem`.
    """

    def __init__(self, spec: Spec, *, engine: Engine | None = None) -> None:
        self._manifest = load_manifest(spec.bundle)
        if spec.landmark is not None and not spec.landmark.exists():
            raise EnvironmentProblem(f"{spec.landmark} is not on {platform.node()}, where its images are to be scored")
        if file_sha256(spec.bundle / MANIFEST_FILE) != spec.bundle_sha256:
            raise FormatError(f"{spec.bundle} is not the bundle the run began with")
        self._limits = spec.limits
        self._accept = spec.accept
        self._batch = spec.plan.max_batch
        self.engine = engine or build_engine(spec.bundle, self._manifest, spec.plan, device=spec.device)
        self.schema = columns(self._manifest)
        # One batch is decoded while every slot of the engine runs another.
        self._workers = spec.workers or self.engine.slots + 1
        self._decoders = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        self._reader = Reader(spec.base, max_bytes=spec.limits.max_bytes)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release engine, threads and archives."""
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self._reader.close()
        asyncio.run(self.engine.close())

    async def run(
        self, parts: Iterable[Part], *, keep: Callable[[int, pa.Table], None], scored: Callable[[Tally], None]
    ) -> None:
        """Score parts in order; `keep` gets each finished part's rows, in a thread, `scored` each finished batch.

        Raises `EngineError` when the engine is gone, or fails on every image of a part of several batches.
        """
        room = asyncio.Semaphore(self._workers)
        try:
            async with asyncio.TaskGroup() as group:
                for number, items in parts:
                    part = _Part(number, items, -(-len(items) // self._batch))
                    for start in range(0, len(items), self._batch):
                        await room.acquire()
                        chosen = items[start : start + self._batch]
                        ahead: list[bytes | ImageError] | None = None
                        if any(item.kind == "stream" for item in chosen):
                            # Batches that overlap would make a compressed tar go back and forth.
                            ahead = await self._in_thread(partial(self._fetch, chosen))
                        work = self._score(part, start, chosen, ahead, keep, scored)
                        group.create_task(work).add_done_callback(lambda _: room.release())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _score(
        self,
        part: _Part,
        start: int,
        items: Sequence[Item],
        ahead: list[bytes | ImageError] | None,
        keep: Callable[[int, pa.Table], None],
        scored: Callable[[Tally], None],
    ) -> None:
        pixels = await self._in_thread(lambda: self._decode(items, ahead))
        outcomes = await self._judge(pixels)
        part.outcomes[start] = outcomes
        scored(Tally.of(outcomes))
        if len(part.outcomes) == part.batches:
            every = [outcome for first in sorted(part.outcomes) for outcome in part.outcomes[first]]
            # Fewer may be the images' own fault.
            if len(every) > self._batch and all(isinstance(o, ImageError) and o.code == "engine_failed" for o in every):
                raise EngineError(f"the engine failed on every image of a part: {every[0]}")
            await self._in_thread(lambda: keep(part.number, table(self.schema, part.items, every)))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    def _bytes(self, item: Item) -> bytes | ImageError:
        try:
            return self._reader.read(item)
        except ImageError as error:
            return error

    def _fetch(self, items: Sequence[Item]) -> list[bytes | ImageError]:
        return [self._bytes(item) for item in items]

    def _decode(self, items: Sequence[Item], ahead: list[bytes | ImageError] | None) -> list[Pixels | ImageError]:
        found: list[Pixels | ImageError] = []
        for index, item in enumerate(items):
            data = ahead[index] if ahead else self._bytes(item)
            if isinstance(data, bytes):
                try:
                    found.append(load_pixels(data, self._manifest.preprocessing, self._limits))
                except ImageError as error:
                    found.append(error)
            else:
                found.append(data)
        return found

    async def _judge(self, images: Sequence[Pixels | ImageError]) -> list[Outcome]:
        """Verdicts of the images that could be decoded; the errors of the others keep their places."""
        good = [image for image in images if not isinstance(image, ImageError)]
        verdicts = iter(await self._verdicts(good))
        return [image if isinstance(image, ImageError) else next(verdicts) for image in images]

    async def _verdicts(self, images: Sequence[Pixels]) -> Sequence[Outcome]:
        if not images:
            return []
        try:
            measured = self._manifest.measure(await self.engine.infer(np.stack(images)))
        except EngineUnavailable:
            raise
        except (EngineError, QualityError) as error:
            if len(images) == 1:
                return [ImageError("engine_failed", str(error))]
            # One image must not cost its batch-mates their answers.
            return [outcome for image in images for outcome in await self._verdicts([image])]
        return [
            self._manifest.verdict(measured, row, accept=self._accept, top_k=1) for row in range(len(measured.fused))
        ]

"""What the sync and the async guard have in common: loading, and what a call consists of."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Self, Unpack

from pydantic import Field, ValidationError

from oodguard.core.answers import ModelRef, PredictResponse, Timing
from oodguard.core.codes import Code
from oodguard.core.errors import InputError
from oodguard.core.frozen import Frozen
from oodguard.core.images import ImageLike, name_of
from oodguard.core.manifest import Manifest, load_manifest
from oodguard.core.preprocessing import DEFAULT_LIMITS, ImageLimits
from oodguard.core.problems import Refused, problem, summary_of
from oodguard.core.signature import Trust
from oodguard.core.targets import Asked, Targets
from oodguard.core.verdict import Thresholds
from oodguard.server.batch_judge import BatchJudge, JudgedBatch
from oodguard.server.engines.registry import Device, LocalEngineName
from oodguard.server.tuning import plan_for


class GuardOptions(Frozen):
    """The arguments of `load`, checked."""

    bundle: Path
    engine: LocalEngineName | None
    device: Device
    tuning: Path | None
    sessions: int | None = Field(ge=1)
    threads: int | None = Field(ge=1)
    max_batch: int | None = Field(ge=1)
    decode_workers: int | None = Field(ge=1)
    limits: ImageLimits


class GuardCalls:
    """A loaded bundle: what it is, and what both guards do between asking and answering."""

    def __init__(self, judge: BatchJudge) -> None:
        self._judge = judge

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        engine: LocalEngineName | None = None,
        device: Device = "auto",
        tuning: str | Path | None = None,
        sessions: int | None = None,
        threads: int | None = None,
        max_batch: int | None = None,
        decode_workers: int | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
        trust: str | Path | None = None,
    ) -> Self:
        """A guard that answers with a bundle in this process. Close it, or use it as a context manager.

        ```python
        guard = oodguard.load("bundles/photos", sessions=4)
        ```

        The options mean what those of `oodguard serve` mean:

        engine           what runs the graph; default: the tuning record's, or onnxruntime
        device           "cpu", "cuda", or "auto": CUDA where it is present
        tuning           record of `oodguard tune`; default: tuning.json in the bundle, if it fits this machine
        sessions         inferences that run at once; default: the tuning record's, or one for each core
        threads          threads of one inference; default: the tuning record's, or 1
        max_batch        images in one inference at most; default: the tuning record's, or 8
        decode_workers   threads that decode images; default: sessions + 1
        limits           bytes and pixels that one image may have at most
        trust            public keys (PEM) one of which must have signed the bundle; default: any bundle

        Every file's SHA-256 is verified, and the golden images must be answered as the manifest says. Raises
        `FormatError` for a folder that is no bundle or was changed, `InputError` for an option out of range,
        `EnvironmentProblem` when the engine cannot run here, and `QualityError` when it answers a golden image wrong.
        """
        try:
            options = GuardOptions(
                bundle=Path(bundle),
                engine=engine,
                device=device,
                tuning=None if tuning is None else Path(tuning),
                sessions=sessions,
                threads=threads,
                max_batch=max_batch,
                decode_workers=decode_workers,
                limits=limits,
            )
        except ValidationError as error:
            first = error.errors()[0]
            why = first["msg"].removeprefix("Value error, ")
            raise InputError(f"{first['loc'][0]}: {why}; got {first['input']!r}") from None
        manifest = load_manifest(options.bundle, trust=None if trust is None else Trust.read(Path(trust)))
        plan = plan_for(options, manifest)
        judge = BatchJudge.open(options.bundle, manifest, plan, limits=limits, device=device, workers=decode_workers)
        return cls(judge)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model.name} version {self.model.version}: {self._judge.runs_on}>"

    @property
    def manifest(self) -> Manifest:
        """Everything about the bundle that is not in its graph."""
        return self._judge.manifest

    @property
    def model(self) -> ModelRef:
        """Name and version, as answers carry them."""
        return ModelRef(name=self.manifest.name, version=self.manifest.version)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of `class_index`."""
        return self.manifest.classes

    def thresholds(self, *, source: str | None = None, **asked: Unpack[Asked]) -> Thresholds:
        """Every threshold at its target, the bundle's own unless another is asked for. Raises `Refused`."""
        return self.manifest.thresholds(self._required(asked, source=source), source=source)

    def _required(self, asked: Asked, top_k: int = 1, *, source: str | None) -> Targets:
        """The targets to judge by. Raises `Refused` for arguments out of range."""
        try:
            targets = self.manifest.targets.but(**asked)
            self.manifest.thresholds(targets, source=source)
            if top_k < 1:
                raise ValueError(f"top_k must be at least 1; got {top_k}")
        except ValueError as error:
            raise Refused(problem(Code.BAD_PARAMETER, str(error))) from None
        return targets

    async def _answer(
        self, images: Sequence[ImageLike], asked: Asked, top_k: int, source: str | None, explain: bool
    ) -> PredictResponse:
        """What `predict` returns; for the judge's event loop."""
        started = time.monotonic()
        targets = self._required(asked, top_k, source=source)
        if not images:
            raise Refused(problem(Code.NO_IMAGES, "give at least one image"))
        # Every slot's share: more in one batch would leave other slots idle.
        size = min(self._judge.plan.max_batch, -(-len(images) // self._judge.engine.slots))
        batches = (
            self._judge.batch(b, read=_itself, targets=targets, top_k=top_k, source=source, explain=explain)
            for b in _batched(images, size)
        )
        judged = await asyncio.gather(*batches)
        answer = PredictResponse.of(
            itertools.chain.from_iterable(batch.outcomes for batch in judged),
            map(name_of, images),
            model=self.model,
            targets=targets,
            source=source,
            timing=Timing.of(
                read=0.0,
                decode=max(batch.decode for batch in judged),
                queue=max(batch.queue for batch in judged),
                inference=max(batch.inference for batch in judged),
                judge=max(batch.judge for batch in judged),
                total=time.monotonic() - started,
            ),
        )
        if not answer.predictions:
            raise Refused(summary_of(answer.errors))
        return answer

    def _judging(
        self, images: Iterable[ImageLike], asked: Asked, top_k: int, source: str | None, explain: bool
    ) -> Generator[tuple[Sequence[ImageLike], Future[JudgedBatch]], None, None]:
        """What `stream` waits for."""
        batches = _batched(images, self._judge.plan.max_batch)
        targets = self._required(asked, top_k, source=source)
        return self._judge.each(batches, read=_itself, targets=targets, top_k=top_k, source=source, explain=explain)


def _itself(image: ImageLike) -> ImageLike:
    return image


def _batched(images: Iterable[ImageLike], size: int) -> Iterator[Sequence[ImageLike]]:
    left = iter(images)
    while batch := list(itertools.islice(left, size)):
        yield batch

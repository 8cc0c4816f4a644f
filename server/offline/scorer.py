"""Images of a part to rows, by the same judge as the guard in the caller's process."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from oodguard.core.codes import Code
from oodguard.core.errors import EnvironmentProblem, FormatError, ImageError
from oodguard.core.files import file_sha256
from oodguard.core.frozen import Frozen
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.preprocessing import ImageLimits
from oodguard.core.targets import Targets
from oodguard.core.verdict import Outcome
from oodguard.server.batch_judge import BatchJudge
from oodguard.server.engines.base import Engine
from oodguard.server.engines.registry import Device
from oodguard.server.errors import EngineError
from oodguard.server.offline.items import IN_ORDER, Item
from oodguard.server.offline.reader import Reader
from oodguard.server.offline.results import columns, table
from oodguard.server.tuning import EnginePlan

Part = tuple[int, Sequence[Item]]


@dataclass
class ScoreTally:
    """What some images came to."""

    images: int = 0
    flagged: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> ScoreTally:
        """Count outcomes."""
        tally = cls()
        for outcome in outcomes:
            tally.images += 1
            if isinstance(outcome, ImageError):
                tally.errors[outcome.code] = tally.errors.get(outcome.code, 0) + 1
            else:
                tally.flagged += outcome.is_ood
        return tally


class Spec(Frozen):
    """Everything a scorer needs, as one record of text: it travels to other machines.

    landmark: a file or folder that must be there, or the images are not.
    """

    bundle: Path
    bundle_sha256: str
    plan: EnginePlan
    base: Path
    landmark: Path | None = None
    limits: ImageLimits
    targets: Targets
    calibration: str | None = None
    explain: bool = False
    column: str | None = None
    device: Device = "auto"
    workers: int | None = None


class Scorer:
    """A loaded bundle that scores parts.

    ```python
    with Scorer(spec) as scorer:
        scorer.run(parts, keep=ledger.keep, scored=lambda tally: None)
    ```

    The batches of a part hold the same images however many run at once, so that its rows are the same on every machine
    that computes alike. Raises what `BatchJudge.open` raises.
    """

    def __init__(self, spec: Spec, *, engine: Engine | None = None) -> None:
        manifest = load_manifest(spec.bundle)
        if spec.landmark is not None and not spec.landmark.exists():
            raise EnvironmentProblem(f"{spec.landmark} is not on {platform.node()}, where its images are to be scored")
        if file_sha256(spec.bundle / MANIFEST_FILE) != spec.bundle_sha256:
            raise FormatError(f"{spec.bundle} is not the bundle the run began with")
        self._targets, self._source = spec.targets, spec.calibration
        self._batch = spec.plan.max_batch
        self._explain = spec.explain
        self._schema = columns(manifest, explained=spec.explain)
        self._reader = Reader(spec.base, max_bytes=spec.limits.max_bytes, column=spec.column)
        if engine is not None:
            self._judge = BatchJudge(manifest, engine, spec.plan, limits=spec.limits, workers=spec.workers)
        else:
            self._judge = BatchJudge.open(
                spec.bundle, manifest, spec.plan, limits=spec.limits, device=spec.device, workers=spec.workers
            )

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._judge.close()
        self._reader.close()

    @property
    def runs_on(self) -> str:
        """What runs the graph, for people."""
        return self._judge.runs_on

    def run(
        self,
        parts: Iterable[Part],
        *,
        keep: Callable[[int, pa.Table], None],
        scored: Callable[[ScoreTally], None],
    ) -> None:
        """Score parts in order; `keep` gets each finished part's rows, `scored` what each batch came to.

        Raises `EngineError` when the engine is gone, or fails on every image of a part of several batches.
        """
        begun: deque[Part] = deque()
        done: list[Outcome] = []
        batches = self._batches(parts, begun)
        judged = self._judge.each(
            batches, read=self._read, targets=self._targets, top_k=1, source=self._source, explain=self._explain
        )
        with closing(judged) as judging:
            for _, future in judging:
                outcomes = future.result().outcomes
                scored(ScoreTally.of(outcomes))
                done += outcomes
                number, items = begun[0]
                if len(done) == len(items):
                    self._require_alive(done)
                    keep(number, table(self._schema, items, done))
                    begun.popleft()
                    done = []

    def _batches(self, parts: Iterable[Part], begun: deque[Part]) -> Iterator[list[Item | bytes | ImageError]]:
        for part in parts:
            begun.append(part)
            _, items = part
            for start in range(0, len(items), self._batch):
                chosen = items[start : start + self._batch]
                # Threads that overlap would make it go back and forth.
                in_order = any(item.kind in IN_ORDER for item in chosen)
                yield [self._ahead(item) for item in chosen] if in_order else list(chosen)

    def _ahead(self, item: Item) -> bytes | ImageError:
        try:
            return self._reader.read(item)
        except ImageError as error:
            return error

    def _read(self, given: Item | bytes | ImageError) -> bytes:
        if isinstance(given, ImageError):
            raise given
        return given if isinstance(given, bytes) else self._reader.read(given)

    def _require_alive(self, outcomes: Sequence[Outcome]) -> None:
        failed = (isinstance(outcome, ImageError) and outcome.code is Code.ENGINE_FAILED for outcome in outcomes)
        # Fewer may be the images' own fault.
        if len(outcomes) > self._batch and all(failed):
            raise EngineError(f"the engine failed on every image of a part: {outcomes[0]}")

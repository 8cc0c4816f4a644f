"""`score`: judges every image of a source with a bundle and writes one file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute

from oodguard.core.errors import InputError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.targets import Targets
from oodguard.core.verdict import Decision
from oodguard.server.offline.ledger import Ledger, Purpose, State
from oodguard.server.offline.options import ScoreOptions
from oodguard.server.offline.results import columns, metadata, write_result
from oodguard.server.offline.scorer import Scorer, ScoreTally, Spec
from oodguard.server.offline.sources import Source
from oodguard.server.tuning import plan_for


@dataclass
class Summary:
    """Counts of a run; `scored` and `seconds` leave out what an interrupted run had finished."""

    targets: Targets
    images: int = 0
    decisions: dict[Decision, int] = field(default_factory=lambda: dict.fromkeys(Decision, 0))
    errors: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    scored: int = 0
    seconds: float = 0.0
    how: str = ""

    @property
    def failed(self) -> int:
        """Images without a verdict."""
        return sum(self.errors.values())


class ScoreProgress(Protocol):
    """Gets calls while a run goes on."""

    def listed(self, images: int) -> None:
        """The source has `images` so far."""

    def begun(self, images: int, finished: int) -> None:
        """The source has `images` in all, of which an interrupted run had `finished` some."""

    def scored(self, tally: ScoreTally) -> None:
        """Some more images have a row."""


def score(options: ScoreOptions, *, progress: ScoreProgress) -> Summary:
    """Score every image of the source and write the result.

    ```python
    score(ScoreOptions(bundle=Path("bundles/photos"), source="photos", out=Path("results.parquet")), progress=bar)
    ```

    Continues an interrupted run if bundle, source and options are the same. Raises `OodguardError`.
    """
    manifest = load_manifest(options.bundle)
    try:
        targets = manifest.targets.but(**options.asked)
        manifest.thresholds(targets, source=options.calibration)
    except ValueError as error:
        raise InputError(str(error)) from None
    if options.out.is_dir() or (options.out.exists() and not options.overwrite):
        raise InputError(f"{options.out} exists; choose another --out, or add --overwrite to replace it")
    plan = plan_for(options, manifest)
    if options.ray and options.sessions is None:
        plan = plan.model_copy(update={"sessions": 1})
    base = Path.cwd()
    bundle_sha256 = file_sha256(options.bundle / MANIFEST_FILE)
    purpose = Purpose(
        bundle=f"{manifest.name} version {manifest.version}",
        bundle_sha256=bundle_sha256,
        source=str(base / options.source),
        targets=targets,
        calibration=options.calibration,
        engine=plan.engine,
        device=options.device,
        threads=plan.threads,
        batch=plan.max_batch,
        part_size=options.part_size,
        max_image_bytes=options.max_image_bytes,
        max_pixels=options.max_pixels,
        explain=options.explain,
    )
    with Ledger(options.out, purpose, restart=options.restart) as ledger:
        ledger.prepare(
            lambda: Source(options.source, base=base, max_bytes=options.max_image_bytes), base, listed=progress.listed
        )
        finished = ledger.finished()
        pending = set(range(ledger.parts)) - finished
        progress.begun(ledger.state.images, sum(map(ledger.size, finished)))
        spec = Spec(
            bundle=options.bundle.absolute(),
            bundle_sha256=bundle_sha256,
            plan=plan,
            base=Path(ledger.state.base),
            landmark=_landmark(ledger.state, options.source),
            limits=options.limits,
            targets=targets,
            calibration=options.calibration,
            explain=options.explain,
            device=options.device,
            workers=options.workers,
        )
        summary = Summary(skipped=ledger.state.skipped, scored=sum(map(ledger.size, pending)), targets=targets)
        if pending and options.ray:
            from oodguard.server.offline.cluster import run_on_ray

            summary.seconds, summary.how = run_on_ray(
                spec, ledger, pending, progress.scored, address=options.ray, workers=options.ray_workers
            )
        elif pending:
            summary.seconds, summary.how = _run_here(spec, ledger, pending, progress.scored)
        about = metadata(
            manifest,
            bundle_sha256=bundle_sha256,
            targets=targets,
            source=options.source,
            calibration=options.calibration,
        )
        write_result(
            options.out, columns(manifest, explained=options.explain), about, _counted(ledger.tables(), summary)
        )
        ledger.remove()
    return summary


def _landmark(state: State, source: str) -> Path | None:
    path = Path(state.base) / (state.inputs[0].path if state.inputs else source)
    return path if path.exists() else None


def _run_here(spec: Spec, ledger: Ledger, pending: set[int], scored: Callable[[ScoreTally], None]) -> tuple[float, str]:
    """Score in this process; return the seconds and what ran the graph."""
    with Scorer(spec) as scorer:
        started = time.monotonic()
        scorer.run(ledger.items(pending), keep=ledger.keep, scored=scored)
        return time.monotonic() - started, scorer.runs_on


def _counted(tables: Iterator[pa.Table], summary: Summary) -> Iterator[pa.Table]:
    """Yield the tables and count them into the summary."""
    for rows in tables:
        summary.images += rows.num_rows
        for count in pa.compute.value_counts(rows["decision"]).to_pylist():
            if count["values"] is not None:
                summary.decisions[Decision(count["values"])] += count["counts"]
        for count in pa.compute.value_counts(rows["error_code"]).to_pylist():
            if count["values"] is not None:
                summary.errors[count["values"]] = summary.errors.get(count["values"], 0) + count["counts"]
        yield rows

"""`score`: judges every image of a source with a bundle and writes one file."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from oodguard.core.calibration import Calibration
from oodguard.core.codes import Code
from oodguard.core.curve import QuantileCurve
from oodguard.core.errors import ImageError, InputError
from oodguard.core.false_discoveries import discovery_cut, fewest_discoveries
from oodguard.core.files import file_sha256
from oodguard.core.grey_levels import GreyLevels, few_grey_levels
from oodguard.core.manifest import MANIFEST_FILE, load_manifest
from oodguard.core.resemblance import EstimatedAccuracy, FlaggedShare, PercentileTest
from oodguard.core.signature import Trust
from oodguard.core.targets import Targets
from oodguard.core.verdict import Decision
from oodguard.server.offline.ledger import Ledger, Purpose, State
from oodguard.server.offline.options import ScoreOptions
from oodguard.server.offline.reader import Reader
from oodguard.server.offline.results import columns, metadata, with_discoveries, write_result
from oodguard.server.offline.scorer import Scorer, ScoreTally, Spec
from oodguard.server.offline.sources import Source
from oodguard.server.tuning import plan_for


@dataclass(frozen=True)
class Discoveries:
    """Strangers that a false discovery rate names: those with a p-value of at most `cut`.

    fewest: how many images must have the `least` possible p-value before any can be named.
    """

    rate: float
    named: int
    cut: float
    least: float
    fewest: int


@dataclass
class Summary:
    """Counts of a run; `scored` and `seconds` leave out what an interrupted run had finished.

    unsupported: why images are of an unsupported type, and how many for each reason.
    """

    targets: Targets
    images: int = 0
    decisions: dict[Decision, int] = field(default_factory=lambda: dict.fromkeys(Decision, 0))
    errors: dict[str, int] = field(default_factory=dict)
    unsupported: Counter[str] = field(default_factory=Counter)
    passed: Mapping[str, int] = field(default_factory=dict)
    scored: int = 0
    seconds: float = 0.0
    how: str = ""
    flagged: FlaggedShare | None = None
    percentiles: PercentileTest | None = None
    accuracy: EstimatedAccuracy | None = None
    discoveries: Discoveries | None = None
    grey_levels: GreyLevels | None = None

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
    manifest = load_manifest(options.bundle, trust=None if options.trust is None else Trust.read(options.trust))
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
        max_decode_work=options.max_decode_work,
        explain=options.explain,
        column=options.column,
        formats=options.formats,
    )
    with Ledger(options.out, purpose, restart=options.restart) as ledger:
        ledger.prepare(
            lambda: Source(options.source, base=base, max_bytes=options.max_image_bytes, column=options.column),
            base,
            listed=progress.listed,
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
            column=options.column,
            device=options.device,
            workers=options.workers,
        )
        summary = Summary(passed=ledger.state.passed, scored=sum(map(ledger.size, pending)), targets=targets)
        with closing(_encoded(ledger, options)) as images:
            summary.grey_levels = few_grey_levels(images, options.limits)
        if pending and options.ray:
            from oodguard.server.offline.cluster import run_on_ray

            summary.seconds, summary.how = run_on_ray(
                spec, ledger, pending, progress.scored, address=options.ray, workers=options.ray_workers
            )
        elif pending:
            summary.seconds, summary.how = _run_here(spec, ledger, pending, progress.scored)
        used = manifest.calibration_of(options.calibration)
        schema, tables = columns(manifest, explained=options.explain, tested=options.fdr is not None), ledger.tables()
        if options.fdr is not None:
            summary.discoveries = found = _discoveries(ledger.tables(), used.curve, options.fdr)
            tables = (with_discoveries(part, schema, used.curve, found.cut) for part in ledger.tables())
        about = metadata(
            manifest,
            bundle_sha256=bundle_sha256,
            targets=targets,
            source=options.source,
            calibration=options.calibration,
        )
        if options.fdr is not None:
            about["oodguard.fdr"] = json.dumps(options.fdr)
        judged = _Judged()
        write_result(options.out, schema, about, _counted(tables, summary, judged))
        judged.compare(used, manifest.thresholds(targets, source=options.calibration).fused, summary)
        ledger.remove()
    return summary


def _encoded(ledger: Ledger, options: ScoreOptions) -> Generator[bytes]:
    """The images that can be read, in order."""
    reader = Reader(Path(ledger.state.base), max_bytes=options.max_image_bytes)
    try:
        for _, items in ledger.items(range(ledger.parts)):
            for item in items:
                with suppress(ImageError):
                    yield reader.read(item)
    finally:
        reader.close()


def _landmark(state: State, source: str) -> Path | None:
    path = Path(state.base) / (state.inputs[0].path if state.inputs else source)
    return path if path.exists() else None


def _run_here(spec: Spec, ledger: Ledger, pending: set[int], scored: Callable[[ScoreTally], None]) -> tuple[float, str]:
    """Score in this process; return the seconds and what ran the graph."""
    with Scorer(spec) as scorer:
        started = time.monotonic()
        scorer.run(ledger.items(pending), keep=ledger.keep, scored=scored)
        return time.monotonic() - started, scorer.runs_on


def _discoveries(tables: Iterator[pa.Table], curve: QuantileCurve, rate: float) -> Discoveries:
    """Choose the p-value that names a stranger from all rows."""
    found = [rows["ood_score"].drop_null().to_numpy() for rows in tables]
    p_values = curve.p_value(np.concatenate(found))
    cut, least = discovery_cut(p_values, rate), float(curve.p_value(np.inf))
    return Discoveries(
        rate=rate,
        named=int((p_values <= cut).sum()),
        cut=cut,
        least=least,
        fewest=fewest_discoveries(len(p_values), rate, least),
    )


class _Judged:
    """Gathers what drift is read from while rows are written."""

    def __init__(self) -> None:
        self._parts: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []

    def add(self, rows: pa.Table) -> None:
        good = rows.filter(pa.compute.is_valid(rows["ood_score"]))
        self._parts.append((good["ood_score"].to_numpy(), good["probability"].to_numpy().astype(np.float64)))

    def compare(self, used: Calibration, threshold: float, summary: Summary) -> None:
        """Say in the summary whether the images are like the calibration photos; nothing where none was judged."""
        fused = np.concatenate([part[0] for part in self._parts])
        if not len(fused):
            return
        chances, flags = np.concatenate([part[1] for part in self._parts]), fused > threshold
        summary.flagged = FlaggedShare.of(flags, used.curve, threshold)
        summary.percentiles = PercentileTest.of(fused, used.curve)
        if used.answering is not None:
            summary.accuracy = EstimatedAccuracy.of(chances[~flags], used.answering.photos, threshold)


def _counted(tables: Iterator[pa.Table], summary: Summary, judged: _Judged) -> Iterator[pa.Table]:
    """Yield the tables and count them into the summary."""
    for rows in tables:
        judged.add(rows)
        summary.images += rows.num_rows
        for count in pa.compute.value_counts(rows["decision"]).to_pylist():
            if count["values"] is not None:
                summary.decisions[Decision(count["values"])] += count["counts"]
        for count in pa.compute.value_counts(rows["error_code"]).to_pylist():
            if count["values"] is not None:
                summary.errors[count["values"]] = summary.errors.get(count["values"], 0) + count["counts"]
        summary.unsupported.update(
            rows["error_detail"].filter(pa.compute.equal(rows["error_code"], Code.UNSUPPORTED_TYPE)).to_pylist()
        )
        yield rows

"""One trial: a method is trained in an arena and measured on every OOD set, or read where that was done before."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from lightning_fabric import Fabric
from pydantic import ValidationError
from torch import Tensor

from oodguard.bench.arena import Arena, BenchPlan, OodSet
from oodguard.bench.methods.catalogue import start_of
from oodguard.bench.methods.method import Detector, Method, MethodOutput, outputs
from oodguard.bench.results.files import TrialFiles, write_text
from oodguard.bench.results.records import Record, Trial
from oodguard.bench.spaces.features import FeatureSpace
from oodguard.bench.suites.store import digest
from oodguard.core.curve import QuantileCurve
from oodguard.core.errors import QualityError
from oodguard.core.frozen import Frozen
from oodguard.core.targets import DEFAULT_ACCEPT
from oodguard.training.compute import cpu_threads
from oodguard.training.loop import EpochReport
from oodguard.training.metrics import detection
from oodguard.training.progress import Reporter

FORMAT = 1
REPORT_SEED = 0


class Finished(Frozen):
    """A trial as it is kept: `key` must match for it to be used again."""

    key: str
    trial: Trial
    records: tuple[Record, ...]


@dataclass
class Session:
    """What the trials of one plan share: its arena, built when the first of them needs it, and the folder `out`."""

    plan: BenchPlan
    out: Path
    compute: Fabric
    report: Reporter

    @cached_property
    def arena(self) -> Arena:
        """The plan's arena."""
        self.report.note(f"preparing {self.plan.name}, seed {self.plan.seed}")
        return self.plan.build(self.compute, self.report)

    def files(self, method: Method) -> TrialFiles:
        """Where a method's trial is kept."""
        return TrialFiles(self.out, self.plan.name, self.plan.seed, method.name)


class _Skipped(Exception):
    """A trial cannot be run; the text says why."""


@dataclass(frozen=True)
class _Trained:
    """A detector after its training; failed: why it must not be used."""

    detector: Detector
    seconds: float
    failed: str | None


def run_trial(session: Session, method: Method) -> Finished | None:
    """Train and measure one method, unless that was done before; None where it cannot be run."""
    plan, files = session.plan, session.files(method)
    key = _key(plan, method)
    kept = _kept(files.record)
    if kept is not None and kept.key == key:
        return kept
    try:
        start = _start(session, method)
    except _Skipped as reason:
        session.report.note(f"{plan.name}: {method.name} is skipped: {reason}")
        return None
    trained = _train(session, method, start)
    if trained.failed is None:
        trial, records = _measure(session, method, trained)
    else:
        session.report.note(f"{plan.name}: {method.name}: {trained.failed}")
        trial, records = _trial(plan, method, trained), []
    finished = Finished(key=key, trial=trial, records=tuple(records))
    if session.compute.is_global_zero:
        if trained.failed is None:
            _save(trained.detector, files.weights)
        else:
            # Those of an earlier version must not be what others start from.
            files.weights.unlink(missing_ok=True)
        write_text(files.record, finished.model_dump_json())
    session.compute.barrier()
    return finished


def _key(plan: BenchPlan, method: Method) -> str:
    """Methods are data classes: their repr is all that they are, with that of the method they start from."""
    lineage: list[Method] = [method]
    while (before := start_of(lineage[-1])) is not None:
        lineage.append(before)
    return digest({**plan.key, "method": "; ".join(map(repr, lineage)), "runner": FORMAT})


def _kept(path: Path) -> Finished | None:
    """The trial at `path`; None where there is none that this version reads."""
    try:
        return Finished.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _start(session: Session, method: Method) -> Detector | None:
    """The trained detector that a method starts from, if any. Raises `_Skipped` where the method cannot be run."""
    problem = session.arena.problem
    if method.needs_outliers and problem.outliers is None:
        raise _Skipped("it needs auxiliary outliers")
    before = start_of(method)
    if before is None:
        return None
    weights = session.files(before).weights
    if not weights.is_file():
        raise _Skipped(f"{before.name}, which it starts from, has not finished")
    detector = before.build(problem)
    detector.load_state_dict(safetensors.torch.load_file(weights))
    return detector.eval()


def _train(session: Session, method: Method, start: Detector | None) -> _Trained:
    """Train a method under the plan's seed and, where that succeeds, calibrate it."""
    plan, problem = session.plan, session.arena.problem

    def progress(e: EpochReport) -> None:
        session.report.progress(f"{plan.name} {plan.seed}: {method.name} (loss {e.loss:.3f})", e.epoch, e.epochs)

    torch.manual_seed(plan.seed)
    began = time.perf_counter()
    failed = None
    detector = method.build(problem)
    # Two-layer heads are too small to share; a convolutional network is not.
    with cpu_threads(1) if isinstance(problem.space, FeatureSpace) else nullcontext():
        try:
            method.train(detector, problem, compute=session.compute, start=start, progress=progress)
        except QualityError as error:
            failed = str(error)
    seconds = time.perf_counter() - began
    if failed is None:
        detector.eval().to(session.compute.device)
        detector.calibrate(problem)
    return _Trained(detector, seconds, failed)


def _measure(session: Session, method: Method, trained: _Trained) -> tuple[Trial, list[Record]]:
    """The trial, and every score of the detector on every OOD set; the first seed's scores are kept for the report."""
    plan, arena, detector = session.plan, session.arena, trained.detector
    test = outputs(detector, arena.problem, arena.test)
    thresholds = _thresholds(outputs(detector, arena.problem, arena.problem.calibration))
    found = {name: outputs(detector, arena.problem, ood_set.inputs) for name, ood_set in arena.ood_sets.items()}
    if plan.seed == REPORT_SEED:
        _keep_scores(session.files(method).scores, test, found, thresholds)
    trial = _trial(
        plan,
        method,
        trained,
        accuracy=_accuracy(test, arena.test_targets),
        member_accuracy=tuple(
            float((member.argmax(-1) == arena.test_targets).double().mean()) for member in test.logits
        ),
        diagnostics=detector.diagnostics(arena.problem),
    )
    records = [
        _record(trial, name, arena.ood_sets[name], score, test, output, threshold)
        for name, output in found.items()
        for score, threshold in thresholds.items()
    ]
    return trial, records


def _trial(
    plan: BenchPlan,
    method: Method,
    trained: _Trained,
    *,
    accuracy: float | None = None,
    member_accuracy: tuple[float, ...] = (),
    diagnostics: dict[str, float] | None = None,
) -> Trial:
    return Trial(
        arena=plan.name,
        method=method.name,
        seed=plan.seed,
        accuracy=accuracy,
        member_accuracy=member_accuracy,
        seconds=trained.seconds,
        diagnostics=diagnostics or {},
        failed=trained.failed,
    )


def _thresholds(calibration: MethodOutput) -> dict[str, float]:
    """By score: the threshold that accepts 95 % of the calibration images."""
    return {
        name: QuantileCurve.fit(values.double().numpy()).threshold(DEFAULT_ACCEPT)
        for name, values in calibration.scores.items()
    }


def _record(
    trial: Trial, name: str, ood_set: OodSet, score: str, test: MethodOutput, found: MethodOutput, threshold: float
) -> Record:
    """One score of a trial against the OOD set `name`."""
    id_values, ood_values = test.scores[score].double().numpy(), found.scores[score].double().numpy()
    measured = detection(id_values, ood_values, threshold)
    assert trial.accuracy is not None
    return Record(
        arena=trial.arena,
        method=trial.method,
        seed=trial.seed,
        ood=name,
        kind=ood_set.kind,
        images=len(ood_values),
        score=score,
        auroc=measured.auroc,
        fpr95=measured.ood_accepted_at_95_id,
        id_flagged_at_95_ood=measured.id_flagged_at_95_ood,
        aupr_in=measured.aupr_in,
        aupr_out=measured.aupr_out,
        flagged=measured.ood_flagged,
        accepted=float(np.mean(id_values <= threshold)),
        accuracy=trial.accuracy,
        shifted_accuracy=None if ood_set.targets is None else _accuracy(found, ood_set.targets),
    )


def _accuracy(found: MethodOutput, targets: Tensor) -> float:
    return float((found.log_probabilities.argmax(-1) == targets).double().mean())


def _keep_scores(
    path: Path, test: MethodOutput, found: Mapping[str, MethodOutput], thresholds: Mapping[str, float]
) -> None:
    kept = {f"test/{score}": values.float().numpy() for score, values in test.scores.items()}
    for name, output in found.items():
        kept |= {f"{name}/{score}": values.float().numpy() for score, values in output.scores.items()}
    kept |= {f"threshold/{score}": np.array(value, dtype=np.float32) for score, value in thresholds.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(kept, path)


def _save(detector: Detector, path: Path) -> None:
    state = {name: value.detach().cpu().contiguous().clone() for name, value in detector.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, path)

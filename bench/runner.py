"""`bench`: train every method in every arena of a suite, evaluate, write; go on where an interruption left off."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor

from oodguard.bench.arena import Arena, BenchPlan, BenchSetting, Suite
from oodguard.bench.methods.catalogue import METHODS, chosen
from oodguard.bench.methods.method import Detector, Method, MethodOutput, answers
from oodguard.bench.methods.problem import FeatureSpace
from oodguard.bench.results import RESULTS_FILE, Record, Results, Trial
from oodguard.bench.store import digest
from oodguard.core.calibration import DEFAULT_ACCEPT
from oodguard.core.curve import QuantileCurve
from oodguard.core.errors import EnvironmentProblem, QualityError
from oodguard.core.frozen import Frozen
from oodguard.training.heads.guard import single_thread
from oodguard.training.loop import EpochReport
from oodguard.training.metrics import detection
from oodguard.training.progress import Reporter, Silent
from oodguard.training.run import versions

FORMAT = 1
TRIALS = "trials"
REPORT_SEED = 0


class Finished(Frozen):
    """A trial as it is kept: `key` must match for it to be used again."""

    key: str
    trial: Trial
    records: tuple[Record, ...]


@dataclass
class _Session:
    """One seed's arena, built on first need."""

    plan: BenchPlan
    compute: Fabric
    report: Reporter
    arena: Arena | None = None

    def need(self) -> Arena:
        if self.arena is None:
            self.report.note(f"preparing {self.plan.name}, seed {self.plan.seed}")
            self.arena = self.plan.build(self.compute, self.report)
        return self.arena


def run_bench(
    suite: Suite,
    setting: BenchSetting,
    out: Path,
    *,
    methods: Sequence[str] = (),
    seeds: int = 3,
    compute: Fabric,
    command: str = "",
    report: Reporter | None = None,
) -> Results:
    """Compare methods and write `results.json`; returns what it wrote.

    ```python
    run_bench(suite, BenchSetting(data=Path("data"), cache=Path("cache")), Path("results"), compute=start_compute())
    ```

    A trial whose key (data, options, method) was finished before in `out` is read, not repeated. Methods that need
    outliers are skipped, with a note, in an arena without.
    """
    report = (report if compute.is_global_zero else None) or Silent()
    wanted = chosen(methods)
    plans = [plan for seed in range(seeds) for plan in suite.plans(setting, seed)]
    trials: list[Trial] = []
    records: list[Record] = []
    done = 0
    for plan in plans:
        session = _Session(plan, compute, report)
        for method in wanted:
            finished = _trial(session, method, out)
            done += 1
            report.progress("methods", done, len(plans) * len(wanted))
            if finished is not None:
                trials.append(finished.trial)
                records += finished.records
        results = Results(
            suite=suite.name,
            quick=setting.quick,
            command=command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=f"{platform.machine()}, {os.cpu_count()} CPUs, {compute.device.type}",
            versions={"oodguard": importlib.metadata.version("oodguard"), **versions()},
            seeds=tuple(range(seeds)),
            trials=tuple(trials),
            records=tuple(records),
        )
        if compute.is_global_zero:
            _write(out / RESULTS_FILE, results.model_dump_json(indent=1))
    return results


def _key(plan: BenchPlan, method: Method) -> str:
    """Methods are data classes: their repr is all that they are, with that of the method they start from."""
    lineage = [method]
    while (before := lineage[-1].starts_from) is not None:
        lineage.append(METHODS[before])
    return digest({**plan.key, "method": "; ".join(map(repr, lineage)), "runner": FORMAT})


def _folder(out: Path, arena: str, seed: int) -> Path:
    return out / TRIALS / f"{arena.replace(' ', '-')}-{seed}"


def scores_path(out: Path, arena: str, seed: int, method: str) -> Path:
    """Where the scores of a trial are kept: `test/SCORE`, `SET/SCORE` and `threshold/SCORE`; of the first seed only."""
    return _folder(out, arena, seed) / f"{method}.scores.safetensors"


class _Skipped(Exception):
    """A trial cannot be run; the text says why."""


@dataclass(frozen=True)
class _Trained:
    """A detector after its training; failed: why it must not be used."""

    detector: Detector
    seconds: float
    failed: str | None


def _trial(session: _Session, method: Method, out: Path) -> Finished | None:
    """Train and measure one method, unless that was done before; None where it cannot be run."""
    plan = session.plan
    path = _folder(out, plan.name, plan.seed) / f"{method.name}.json"
    key = _key(plan, method)
    if path.is_file():
        kept = Finished.model_validate_json(path.read_bytes())
        if kept.key == key:
            return kept
    try:
        start = _start(session, method, out)
    except _Skipped as reason:
        session.report.note(f"{plan.name}: {method.name} is skipped: {reason}")
        return None
    trained = _train(session, method, start)
    if trained.failed is None:
        finished = _measure(
            session, method, trained, key=key, scores=scores_path(out, plan.name, plan.seed, method.name)
        )
    else:
        session.report.note(f"{plan.name}: {method.name}: {trained.failed}")
        finished = _failed(plan, method, trained, key=key)
    if session.compute.is_global_zero:
        weights = _weights(out, plan, method)
        if trained.failed is None:
            _save(trained.detector, weights)
        else:
            # Those of an earlier version must not be what others start from.
            weights.unlink(missing_ok=True)
        _write(path, finished.model_dump_json())
    session.compute.barrier()
    return finished


def _start(session: _Session, method: Method, out: Path) -> Detector | None:
    """The trained detector that a method starts from, if any. Raises `_Skipped` where the method cannot be run."""
    arena = session.need()
    if method.needs_outliers and arena.problem.outliers is None:
        raise _Skipped("it needs auxiliary outliers")
    if method.starts_from is None:
        return None
    before = METHODS[method.starts_from]
    weights = _weights(out, session.plan, before)
    if not weights.is_file():
        raise _Skipped(f"{before.name}, which it starts from, has not finished")
    return _load(before, arena, weights)


def _train(session: _Session, method: Method, start: Detector | None) -> _Trained:
    """Train a method under the plan's seed and, where that succeeds, calibrate it."""
    plan, problem = session.plan, session.need().problem

    def progress(e: EpochReport) -> None:
        session.report.progress(f"{plan.name} {plan.seed}: {method.name} (loss {e.loss:.3f})", e.epoch, e.epochs)

    torch.manual_seed(plan.seed)
    began = time.perf_counter()
    failed = None
    detector = method.build(problem)
    # Two-layer heads are too small to share; a convolutional network is not.
    with single_thread() if isinstance(problem.space, FeatureSpace) else nullcontext():
        try:
            method.train(detector, problem, session.compute, start, progress)
        except QualityError as error:
            failed = str(error)
    seconds = time.perf_counter() - began
    if failed is None:
        detector.eval().to(session.compute.device)
        detector.calibrate(problem)
    return _Trained(detector, seconds, failed)


def _failed(plan: BenchPlan, method: Method, trained: _Trained, *, key: str) -> Finished:
    trial = Trial(
        arena=plan.name,
        method=method.name,
        seed=plan.seed,
        accuracy=None,
        seconds=trained.seconds,
        failed=trained.failed,
    )
    return Finished(key=key, trial=trial, records=())


def _measure(session: _Session, method: Method, trained: _Trained, *, key: str, scores: Path) -> Finished:
    """Every score of a trained detector on every OOD set; the first seed's scores are kept at `scores`."""
    plan, arena, detector = session.plan, session.need(), trained.detector
    test = answers(detector, arena.problem, arena.test)
    held = answers(detector, arena.problem, arena.problem.held)
    accuracy = _accuracy(test, arena.test_targets)
    thresholds = {
        name: QuantileCurve.fit(values.double().numpy()).threshold(DEFAULT_ACCEPT)
        for name, values in held.scores.items()
    }
    records = []
    kept = {f"test/{name}": values.float().numpy() for name, values in test.scores.items()}
    for name, ood_set in arena.ood.items():
        found = answers(detector, arena.problem, ood_set.inputs)
        shifted = None if ood_set.targets is None else _accuracy(found, ood_set.targets)
        for score, threshold in thresholds.items():
            values = test.scores[score].double().numpy(), found.scores[score].double().numpy()
            measured = detection(*values, threshold)
            kept[f"{name}/{score}"] = values[1].astype(np.float32)
            records.append(
                Record(
                    arena=plan.name,
                    method=method.name,
                    seed=plan.seed,
                    ood=name,
                    kind=ood_set.kind,
                    images=len(values[1]),
                    score=score,
                    auroc=measured.auroc,
                    fpr95=measured.ood_accepted_at_95_id,
                    id_flagged_at_95_ood=measured.id_flagged_at_95_ood,
                    aupr_in=measured.aupr_in,
                    aupr_out=measured.aupr_out,
                    flagged=measured.ood_flagged,
                    accepted=float(np.mean(values[0] <= threshold)),
                    accuracy=accuracy,
                    shifted_accuracy=shifted,
                )
            )
    if plan.seed == REPORT_SEED:
        kept |= {f"threshold/{name}": np.array(value, dtype=np.float32) for name, value in thresholds.items()}
        scores.parent.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(kept, scores)
    trial = Trial(
        arena=plan.name,
        method=method.name,
        seed=plan.seed,
        accuracy=accuracy,
        member_accuracy=tuple(
            float((member.argmax(-1) == arena.test_targets).double().mean()) for member in test.logits
        ),
        seconds=trained.seconds,
        diagnostics=detector.diagnostics(arena.problem),
    )
    return Finished(key=key, trial=trial, records=tuple(records))


def _accuracy(found: MethodOutput, targets: Tensor) -> float:
    return float((found.log_probabilities.argmax(-1) == targets).double().mean())


def _weights(out: Path, plan: BenchPlan, method: Method) -> Path:
    return _folder(out, plan.name, plan.seed) / f"{method.name}.safetensors"


def _load(method: Method, arena: Arena, weights: Path) -> Detector:
    """A trained detector from the weights of its trial."""
    detector = method.build(arena.problem)
    detector.load_state_dict(safetensors.torch.load_file(weights))
    return detector.eval()


def _save(detector: Detector, path: Path) -> None:
    state = {name: value.detach().cpu().contiguous().clone() for name, value in detector.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, path)


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written ({error.strerror})") from None

"""`train`: from labelled photos to a finished run folder."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from oodguard.core.answering import LabelledPhotos
from oodguard.core.bank import Bank
from oodguard.core.calibration import Calibration
from oodguard.core.classifier import CLASSIFIER_FILE
from oodguard.core.collusion import CollusionReport
from oodguard.core.errors import EnvironmentProblem
from oodguard.core.files import file_sha256
from oodguard.core.fusion import LeftOutCheck
from oodguard.core.scores import REGISTRY, Family
from oodguard.core.targets import DEFAULT_ACCEPT, Targets
from oodguard.training import run as runs
from oodguard.training.answers import Answers, answers, head_answers
from oodguard.training.backbone.learning_set import LearningSet, learning_set
from oodguard.training.backbone.tail import tail_features
from oodguard.training.compute import cpu_threads, start_compute
from oodguard.training.cross_fit import CrossFitted, cross_fit
from oodguard.training.golden import keep_golden
from oodguard.training.heads.density import bank_rows
from oodguard.training.heads.guard import GuardHeads, diagnose_heads, fit_heads
from oodguard.training.left_out import Labelled, check_left_out
from oodguard.training.loop import EpochReport
from oodguard.training.metrics import calibration_error
from oodguard.training.options import TrainOptions
from oodguard.training.out_of_fold import FrozenPhotos, out_of_fold
from oodguard.training.photos.division import group_numbers, label_numbers
from oodguard.training.photos.labelled import Photo
from oodguard.training.photos.split import split_off
from oodguard.training.picture_quality import quality_scale
from oodguard.training.progress import Reporter, Silent
from oodguard.training.record import (
    RECORD_FILE,
    WEIGHTS_FILE,
    BackboneRecord,
    RunRecord,
    Splits,
    load_record,
)
from oodguard.training.unfinished import Unfinished
from oodguard.training.wrapped import Wrapped

# Photos out of fold that a run keeps.
MAX_APART = 8192


@dataclass(frozen=True)
class Learned:
    """A trained guard before calibration, what it was trained on, and what left-out classes say of its scores.

    wrapped: the classifier that the guard is put around. views: augmented views of each photo. apart: what heads say of
    training photos that they did not see; none where the guard was cross-fitted.
    """

    learning: LearningSet
    heads: GuardHeads
    check: LeftOutCheck | None
    crossed: CrossFitted | None
    wrapped: Wrapped | None
    views: int
    apart: LabelledPhotos | None
    seconds_per_head_epoch: float


def train(
    options: TrainOptions,
    out: Path,
    *,
    parent: Path | None = None,
    wrapped: Wrapped | None = None,
    report: Reporter | None = None,
) -> RunRecord:
    """Train a guard and write its run folder.

    wrapped: the classifier that the guard is put around; None: one is trained from the photos of `options`.

    ```python
    record = train(TrainOptions(data=Path("photos")), Path("runs/photos"))
    ```

    parent: the run that this one follows, as its next version; None: the run that is at `out`, if there is one.

    Under torchrun, or with several `devices`, every process calls this; the first one reports and writes. Raises an
    `OodguardError` in one sentence for anything a user can mend; nothing is left at `out` then.
    """
    started = time.perf_counter()
    compute = start_compute(options.devices)
    first = compute.is_global_zero
    report = (report if first else None) or Silent()
    lineage = runs.lineage(out, parent)
    scratch = runs.begin(out, overwrite=options.overwrite) if first else out
    unfinished = Unfinished(options.cache)
    unfinished.prune()
    try:
        with cpu_threads(options.threads):
            learned = _learn(options, compute, report, wrapped, unfinished)
            if first:
                _write(learned, options, scratch, started, lineage, report)
    except BaseException as error:
        if first:
            shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError):
            raise EnvironmentProblem(f"{out} cannot be written ({error.strerror or error})") from None
        raise
    if first:
        runs.finish(scratch, out)
        unfinished.forget()
    compute.barrier()
    return load_record(out)


def _learn(
    options: TrainOptions, compute: Fabric, report: Reporter, wrapped: Wrapped | None, unfinished: Unfinished
) -> Learned:
    """The part of training that all processes do together."""
    learning = learning_set(options, compute, report, wrapped, unfinished=unfinished)
    epoch_seconds: list[float] = []

    def on_epoch(e: EpochReport) -> None:
        epoch_seconds.append(e.seconds)
        report.progress(f"heads (loss {e.loss:.3f})", e.epoch, e.epochs)

    heads = fit_heads(
        learning.features,
        learning.targets,
        options,
        classes=len(learning.known),
        rows=learning.backbone.rows,
        outliers=learning.outliers,
        compute=compute,
        progress=on_epoch,
    )
    if learning.covered:
        heads.cover(learning.covered)
    # A wrapped classifier was trained on all classes: none can be left out any more.
    check = _check(learning, options, compute, report) if wrapped is None else None
    return Learned(
        learning=learning,
        heads=heads,
        check=check,
        crossed=cross_fit(learning, options, compute, report, unfinished) if options.cross_fit else None,
        apart=None if options.cross_fit else _apart(learning, options, check, compute, report),
        wrapped=wrapped,
        views=options.views,
        seconds_per_head_epoch=float(np.median(epoch_seconds)),
    )


def _apart(
    learning: LearningSet, options: TrainOptions, check: LeftOutCheck | None, compute: Fabric, report: Reporter
) -> LabelledPhotos | None:
    """What heads on the frozen feature say of the training photos, out of fold."""
    division = learning.division
    found = out_of_fold(
        FrozenPhotos(
            features=learning.frozen,
            targets=learning.targets,
            groups=group_numbers(division, division.training),
            held=learning.held,
            rows=learning.backbone.rows,
        ),
        options,
        classes=len(learning.known),
        check=check,
        compute=compute,
        progress=lambda done, total: report.progress("training photos out of fold", done, total),
    )
    return None if found is None else found.sample(MAX_APART, seed=options.seed)


def _check(learning: LearningSet, options: TrainOptions, compute: Fabric, report: Reporter) -> LeftOutCheck | None:
    """Choose the fused score on left-out classes, and say what it leaves out."""
    division, classes = learning.division, learning.known
    rows, covered = learning.backbone.rows, learning.covered
    if options.cross_fit:
        groups = [division.groups[photo] for photo in division.training]
        rest, held = split_off(
            learning.targets.numpy(), groups, fraction=options.calibration_fraction, seed=options.seed
        )
        parts = [Labelled(learning.frozen[:, part], learning.targets[part], rows, covered) for part in (rest, held)]
    else:
        numbers = torch.from_numpy(label_numbers(division.calibration, classes))
        parts = [
            Labelled(learning.frozen, learning.targets, rows, covered),
            Labelled(learning.held.unsqueeze(0), numbers, rows, covered),
        ]
    check = check_left_out(
        parts[0],
        parts[1],
        options,
        classes=len(classes),
        compute=compute,
        progress=lambda done, total: report.progress("check on left-out classes", done, total),
    )
    for name, value in ({} if check is None else check.failed).items():
        if REGISTRY[name].fused and REGISTRY[name].family is Family.CONFIDENCE:
            report.note(f"{name} does not tell left-out classes (AUROC {value:.0f} %): it stays out of the fused score")
    return check


@dataclass(frozen=True)
class Calibrated:
    """What a trained guard says of its calibration photos, and what follows from that."""

    answers: Answers
    calibration: Calibration
    labelled: LabelledPhotos
    diagnosis: CollusionReport


def _write(
    learned: Learned, options: TrainOptions, scratch: Path, started: float, lineage: runs.Lineage, report: Reporter
) -> None:
    """Calibrate and test a trained guard, and write its folder."""
    division, backbone, heads = learned.learning.division, learned.learning.backbone, learned.heads
    calibrated = _calibrate(learned, options, report)
    metrics = _metrics(learned, calibrated, options)
    metrics["train_seconds"] = time.perf_counter() - started
    keep_golden(division.calibration, scratch)
    runs.write_division(scratch, division.record)
    runs.write_bank(scratch, _bank(learned))
    runs.write_calibration(scratch, calibrated.answers.scores, calibrated.labelled)
    if learned.wrapped is not None:
        shutil.copyfile(learned.wrapped.network, scratch / CLASSIFIER_FILE)
    runs.write_weights(scratch, trunk=backbone.trunk, tail=backbone.tail, heads=heads)
    record = _record(learned, calibrated, options, metrics, lineage, weights_sha256=file_sha256(scratch / WEIGHTS_FILE))
    record = record.model_copy(update={"files": runs.hashes(scratch)})
    (scratch / RECORD_FILE).write_text(record.model_dump_json(indent=1), encoding="utf-8")


def _bank(learned: Learned) -> Bank:
    """Which training photo each row of the bank is."""
    learning = learned.learning
    targets = learning.targets
    numbers = label_numbers(learning.division.training, learning.classes)
    rows = bank_rows(targets, learned.heads.shapes.bank)
    photos = learning.division.training
    return Bank(class_indices=tuple(numbers[rows].tolist()), sha256=tuple(photos[row].sha256 for row in rows.tolist()))


def _calibrate(learned: Learned, options: TrainOptions, report: Reporter) -> Calibrated:
    """Ask the guard about the calibration photos: thresholds, and whether its members collude."""
    learning, heads, crossed = learned.learning, learned.heads, learned.crossed
    if crossed is not None:
        found, diagnosis = crossed.answers, crossed.diagnosis
    else:
        photos = learning.division.calibration
        features = tail_features(learning.backbone.tail, learning.extractor.extract(photos)[0])
        found = head_answers(heads, features)
        if learned.wrapped is not None and learned.wrapped.record.seen:
            found = _as_if_unseen(found, learned)
        diagnosis = diagnose_heads(
            heads,
            (features, torch.from_numpy(label_numbers(photos, learning.known))),
            (learning.features[0], learning.targets),
        )
    calibration = Calibration.fit(found.scores, check=learned.check, lipschitz=heads.lipschitz)
    division = learning.division
    own = division.calibration if crossed is None else division.training
    labelled = LabelledPhotos(
        surprise=calibration.surprise(found.scores),
        probabilities=found.probabilities,
        targets=label_numbers(own, learning.classes),
        groups=group_numbers(division, own),
    )
    if learned.apart is not None:
        labelled = learned.apart.and_these(labelled)
    wrapped = learned.wrapped
    if wrapped is None or not (wrapped.record.seen or wrapped.record.labels == "model"):
        # What a wrapped classifier answers stays as it is.
        calibration = calibration.answered(labelled, keep_probabilities=wrapped is not None)
    scale = quality_scale(
        (*division.training, *division.calibration),
        learning.backbone.preprocessing,
        seed=options.seed,
        threads=options.threads,
        report=report,
    )
    calibration = calibration.model_copy(update={"quality": scale})
    return Calibrated(answers=found, calibration=calibration, labelled=labelled, diagnosis=diagnosis)


def _as_if_unseen(found: Answers, learned: Learned) -> Answers:
    """The answers for calibration photos that the wrapped classifier was trained on, with other scores.

    It knows these photos better than it will know new ones. Each score is the largest over augmented views of a photo,
    which it knows less well. That comes nearer to new photos; how near, only photos that it has not seen could say.
    """
    learning = learned.learning
    views = learning.extractor.extract(learning.division.calibration, views=range(1, max(learned.views, 1) + 1))
    changed = [answers(learning.backbone, learned.heads, view).scores for view in views]
    scores = {name: np.max([view[name] for view in changed], axis=0) for name in found.scores}
    return dataclasses.replace(found, scores=scores)


def _metrics(learned: Learned, calibrated: Calibrated, options: TrainOptions) -> dict[str, float]:
    """The figures that a run's record keeps."""
    learning, division = learned.learning, learned.learning.division
    classes, calibration = learning.classes, calibrated.calibration
    metrics = {
        "seconds_per_head_epoch": learned.seconds_per_head_epoch,
        "calibration_accuracy": _accuracy(calibrated.answers, division.calibration, classes),
    }
    if not division.test:
        return metrics
    tested = answers(learning.backbone, learned.heads, learning.extractor.extract(division.test)[0])
    accepted = tested.fused(calibration) <= calibration.thresholds(DEFAULT_ACCEPT).fused
    return {
        **metrics,
        "test_accuracy": _accuracy(tested, division.test, classes),
        "test_calibration_error": calibration_error(
            calibration.chances(tested.probabilities), label_numbers(division.test, classes)
        ),
        "test_acceptance": float(np.mean(accepted)),
    }


def _record(
    learned: Learned,
    calibrated: Calibrated,
    options: TrainOptions,
    metrics: dict[str, float],
    lineage: runs.Lineage,
    *,
    weights_sha256: str,
) -> RunRecord:
    """Everything about the run that is not a weight."""
    learning, heads = learned.learning, learned.heads
    photos, division, extractor, backbone = learning.photos, learning.division, learning.extractor, learning.backbone
    unreadable = {str(p.path) for p in (*photos.pool, *photos.held, *photos.test) if p.sha256 in extractor.unreadable}
    return RunRecord(
        name=lineage.name,
        version=lineage.version,
        parent=lineage.parent,
        oodguard=importlib.metadata.version("oodguard"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=options.seed,
        options={k: str(v) if isinstance(v, Path) else v for k, v in options.model_dump().items()},
        versions=runs.versions(),
        data_fingerprint=photos.fingerprint,
        classes=learning.classes,
        preprocessing=backbone.preprocessing,
        backbone=BackboneRecord(
            kind=backbone.kind,
            name=backbone.name,
            resized=options.image_size is not None,
            source=backbone.source,
            weights_sha256=backbone.weights_sha256,
            cut=backbone.cut,
            recorded=backbone.recorded,
            arguments=dict(backbone.arguments),
            width=backbone.width,
            tuned_sha256=backbone.tuned_sha256,
        ),
        classifier=None if learned.wrapped is None else learned.wrapped.record,
        heads=heads.shapes,
        splits=Splits(
            train=len(division.training),
            calibration=len(division.calibration),
            test=len(division.test),
            groups=len(set(division.groups.values())),
            largest_group=division.largest_group,
            unreadable=tuple(sorted(unreadable)),
        ),
        faults=division.faults,
        calibration=calibrated.calibration,
        targets=Targets(confidence=options.confidence),
        metrics=metrics,
        diagnosis=calibrated.diagnosis,
        weights_sha256=weights_sha256,
    )


def _accuracy(found: Answers, photos: Sequence[Photo], classes: Sequence[str]) -> float:
    return float(np.mean(found.probabilities.argmax(1) == label_numbers(photos, classes)))

"""`train`: from labelled photos to a finished run folder."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oodguard.training import run as runs
from oodguard.training.backbone import Backbone, load_backbone
from oodguard.training.calibration import DEFAULT_ACCEPT, MIN_CALIBRATION, Fusion, QuantileCurve, Scores
from oodguard.training.contract import (
    GOLDEN_FOLDER,
    RECORD_FILE,
    SCORES,
    WEIGHTS_FILE,
    BackboneRecord,
    RunRecord,
    Splits,
    file_sha256,
)
from oodguard.training.data import Photo, Photos, load_photos, load_unlabelled, require_enough
from oodguard.training.errors import EnvironmentProblem, InputError
from oodguard.training.features import Extractor
from oodguard.training.heads import EpochReport, GuardHeads, fit_heads
from oodguard.training.metrics import calibration_error
from oodguard.training.options import TrainOptions
from oodguard.training.progress import Reporter, Silent
from oodguard.training.split import Indices, near_duplicate_groups, split_off
from oodguard.training.tail import tail_features, tune_tail

GOLDEN_IMAGES = 8

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Division:
    """Which photos train, calibrate and test a guard."""

    train: tuple[Photo, ...]
    calibration: tuple[Photo, ...]
    test: tuple[Photo, ...]
    groups: int
    largest_group: int


@dataclass(frozen=True)
class Answers:
    """A guard's raw answers for N images: mean probabilities, every member's vote, and the scores by name."""

    probabilities: npt.NDArray[np.float32]
    votes: Labels
    scores: dict[str, Scores]


def train(options: TrainOptions, out: Path, *, report: Reporter | None = None) -> RunRecord:
    """Train a guard and write its run folder.

    ```python
    record = train(TrainOptions(data=Path("photos")), Path("runs/photos"))
    ```

    Raises an `OodguardError` in one sentence for anything a user can mend; nothing is left at `out` then.
    """
    report = report or Silent()
    started = time.perf_counter()
    if options.threads:
        torch.set_num_threads(options.threads)
    scratch = runs.begin(out)
    try:
        record = _train(options, scratch, report, started)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError):
            raise EnvironmentProblem(f"{out} cannot be written ({error.strerror or error})") from None
        raise
    runs.finish(scratch, out)
    return record


def _train(options: TrainOptions, scratch: Path, report: Reporter, started: float) -> RunRecord:
    photos, left_out = chosen_photos(options)
    if left_out:
        report.note(f"left out {len(left_out)} classes: {', '.join(sorted(left_out))}")
    backbone = load_backbone(
        options.backbone, weights=options.weights, image_size=options.image_size, tune=options.tune
    )
    extractor = Extractor(backbone, cache=options.cache, on_unreadable=options.on_unreadable, threads=options.threads)
    division, frozen = divide(photos, extractor, options, report)
    classes = photos.classes
    targets = torch.from_numpy(label_numbers(division.train, classes))
    activations = extractor.extract(
        division.train,
        views=range(options.views + 1),
        progress=lambda done, total: report.progress("augmented views", done, total),
    )
    if options.tune:
        tune_tail(
            backbone.tail,
            activations,
            targets,
            options,
            classes=len(classes),
            width=backbone.width,
            progress=lambda e: report.progress(f"fine-tuning (loss {e.loss:.3f})", e.epoch, e.epochs),
        )
    features = torch.stack([tail_features(backbone.tail, view) for view in activations])
    del activations
    outliers = None
    if options.outliers is not None:
        strangers = extractor.readable(load_unlabelled(options.outliers))
        outliers = tail_features(backbone.tail, extractor.extract(strangers)[0])
    epoch_seconds: list[float] = []

    def on_epoch(e: EpochReport) -> None:
        epoch_seconds.append(e.seconds)
        report.progress(f"heads (loss {e.loss:.3f})", e.epoch, e.epochs)

    heads = fit_heads(features, targets, options, classes=len(classes), outliers=outliers, progress=on_epoch)
    held_out = answers(backbone, heads, extractor.extract(division.calibration)[0])
    curves = {name: QuantileCurve.fit(values) for name, values in held_out.scores.items()}
    fusion = Fusion.fit(curves, held_out.scores)
    metrics = {
        "seconds_per_head_epoch": float(np.median(epoch_seconds)),
        "calibration_accuracy": _accuracy(held_out, division.calibration, classes),
    }
    if division.test:
        tested = answers(backbone, heads, extractor.extract(division.test)[0])
        fused = fusion.score(curves, tested.scores)
        metrics |= {
            "test_accuracy": _accuracy(tested, division.test, classes),
            "test_calibration_error": calibration_error(tested.probabilities, label_numbers(division.test, classes)),
            "test_acceptance": float(np.mean(fused <= fusion.curve.threshold(DEFAULT_ACCEPT))),
        }
        metrics |= leak_metrics(backbone, extractor, division, options, frozen, classes)
    metrics["train_seconds"] = time.perf_counter() - started
    _keep_golden(division.calibration, scratch)
    runs.write_calibration(scratch, held_out.scores)
    runs.write_weights(scratch, trunk=backbone.trunk, tail=backbone.tail, heads=heads)
    record = RunRecord(
        oodguard=importlib.metadata.version("oodguard"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=options.seed,
        options={k: str(v) if isinstance(v, Path) else v for k, v in options.model_dump().items()},
        versions=runs.versions(),
        data_fingerprint=photos.fingerprint,
        classes=classes,
        preprocessing=backbone.preprocessing,
        backbone=BackboneRecord(
            name=backbone.name,
            source=backbone.source,
            weights_sha256=backbone.weights_sha256,
            cut=backbone.cut,
            width=backbone.width,
        ),
        heads=heads.shapes,
        splits=Splits(
            train=len(division.train),
            calibration=len(division.calibration),
            test=len(division.test),
            groups=division.groups,
            largest_group=division.largest_group,
            unreadable=tuple(
                sorted({str(p.path) for p in (*photos.pool, *photos.test) if p.sha256 in extractor.unreadable})
            ),
        ),
        curves=curves,
        fusion=fusion,
        metrics=metrics,
        weights_sha256=file_sha256(scratch / WEIGHTS_FILE),
    )
    (scratch / RECORD_FILE).write_text(record.model_dump_json(indent=1), encoding="utf-8")
    return record


def _keep_golden(photos: Sequence[Photo], scratch: Path) -> None:
    """Copy a few calibration images, spread over the classes: export proves its graph on them."""
    folder = scratch / GOLDEN_FOLDER
    folder.mkdir()
    for index, place in enumerate(np.linspace(0, len(photos) - 1, GOLDEN_IMAGES).round().astype(int)):
        shutil.copyfile(photos[place].path, folder / f"{index:02d}{photos[place].path.suffix.lower()}")


def chosen_photos(options: TrainOptions) -> tuple[Photos, frozenset[str]]:
    """The photos to learn from, and the classes that `leave_out` removes (random, by the run's seed)."""
    photos = load_photos(options.data, options.cache)
    if not options.leave_out:
        return photos, frozenset()
    if options.leave_out > len(photos.classes) - 2:
        raise InputError(
            f"leaving out {options.leave_out} of {len(photos.classes)} classes leaves fewer than 2 to train on"
        )
    rng = np.random.default_rng(options.seed)
    left_out = frozenset(rng.choice(photos.classes, options.leave_out, replace=False).tolist())
    return photos.without(left_out), left_out


def divide(
    photos: Photos, extractor: Extractor, options: TrainOptions, report: Reporter
) -> tuple[Division, npt.NDArray[np.float32]]:
    """Drop unreadable images, group near-duplicates on frozen features, and split.

    Also returns the frozen features of `train + calibration`, in that order. The same photos, options and cache give
    the same division; evaluation calls it again instead of storing lists of files.
    """
    pool = extractor.readable(
        photos.pool, lambda done, total: report.progress("features of training images", done, total)
    )
    test = extractor.readable(photos.test, lambda done, total: report.progress("features of test images", done, total))
    if extractor.unreadable:
        report.note(f"skipped {len(extractor.unreadable)} images that cannot be read (named in the run record)")
    require_enough(Counter(photo.label for photo in pool) + Counter(dict.fromkeys(photos.classes, 0)))
    frozen = tail_features(extractor.backbone.tail, extractor.extract(pool)[0]).numpy()
    labels = label_numbers(pool, photos.classes)
    groups = near_duplicate_groups(frozen, labels)
    learn = np.arange(len(pool))
    if not test:
        learn, held = split_off(labels, groups, fraction=options.test_fraction, seed=options.seed)
        test = tuple(pool[i] for i in held)
    rest, held = split_off(labels[learn], groups[learn], fraction=options.calibration_fraction, seed=options.seed)
    if len(held) < MIN_CALIBRATION:
        raise InputError(
            f"only {len(held)} images can be set aside to calibrate thresholds and at least {MIN_CALIBRATION} are "
            "needed; add images or raise --calibration-fraction"
        )
    rest, held = learn[rest], learn[held]
    division = Division(
        train=tuple(pool[i] for i in rest),
        calibration=tuple(pool[i] for i in held),
        test=tuple(test),
        groups=len(np.unique(groups)),
        largest_group=int(np.bincount(groups).max()),
    )
    return division, frozen[np.concatenate([rest, held])]


def label_numbers(photos: Sequence[Photo], classes: Sequence[str]) -> Labels:
    """Class indices `[N]`."""
    number = {label: i for i, label in enumerate(classes)}
    return np.array([number[photo.label] for photo in photos], dtype=np.int64)


@torch.no_grad()
def answers(backbone: Backbone, heads: GuardHeads, activations: npt.NDArray[np.float16]) -> Answers:
    """A guard's answers for cached trunk activations `[N, ...]`."""
    return head_answers(heads, tail_features(backbone.tail, activations))


@torch.no_grad()
def head_answers(heads: GuardHeads, features: Tensor) -> Answers:
    """A guard's answers for features `[N, D]`."""
    logits, table = heads(features)
    columns = table.double().numpy()
    return Answers(
        probabilities=logits.softmax(-1).mean(0).numpy(),
        votes=logits.argmax(-1).numpy(),
        scores={spec.name.value: columns[:, i] for i, spec in enumerate(SCORES)},
    )


def _accuracy(found: Answers, photos: Sequence[Photo], classes: Sequence[str]) -> float:
    return float(np.mean(found.probabilities.argmax(1) == label_numbers(photos, classes)))


def leak_metrics(
    backbone: Backbone,
    extractor: Extractor,
    division: Division,
    options: TrainOptions,
    frozen: npt.NDArray[np.float32],
    classes: Sequence[str],
) -> dict[str, float]:
    """What keeping near-duplicates together changes: test acceptance of a kNN threshold set for 95 %.

    Measured on frozen features with k = 1 and 5, once with a random and once with the grouped calibration split.
    """
    original = load_backbone(
        options.backbone, weights=options.weights, image_size=options.image_size, tune=options.tune
    )
    if original.weights_sha256 != backbone.weights_sha256:
        return {}  # random weights: there is no frozen network to go back to
    test = _unit(tail_features(original.tail, extractor.extract(division.test)[0]).numpy())
    pool = _unit(frozen)
    labels = label_numbers((*division.train, *division.calibration), classes)
    size = len(division.train)
    splits: dict[str, tuple[Indices, Indices]] = {
        "random": split_off(labels, None, fraction=options.calibration_fraction, seed=options.seed),
        "grouped": (np.arange(size), np.arange(size, len(pool))),
    }
    found = {}
    for name, (bank, held) in splits.items():
        for k in (1, 5):
            threshold = QuantileCurve.fit(_kth_distance(pool[held], pool[bank], k)).threshold(DEFAULT_ACCEPT)
            found[f"knn{k}_acceptance_{name}_split"] = float(np.mean(_kth_distance(test, pool[bank], k) <= threshold))
    return found


def _unit(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))


def _kth_distance(queries: npt.NDArray[np.float32], bank: npt.NDArray[np.float32], k: int) -> Scores:
    similarity = queries @ bank.T
    return np.asarray(1.0 - np.sort(similarity, axis=1)[:, -min(k, len(bank))], dtype=np.float64)

"""Suites of photo folders: features of EfficientNet-Lite0 (or any timm model), with its last stage tuned as served.

Two arenas a seed: `all classes`, against other sets and corrupted test photos, and `left out`, where a quarter of the
classes (8 of 34 for produce) is kept out of training and their test photos are the near-OOD set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from oodguard.bench import store
from oodguard.bench.arena import Arena, BenchPlan, BenchSetting, Kind, OodSet
from oodguard.bench.corruptions import corruptions
from oodguard.bench.methods.problem import FeatureSpace, LearningProblem
from oodguard.training.backbone.learning_set import learning_set
from oodguard.training.backbone.tail import tail_features
from oodguard.training.loop import Schedule
from oodguard.training.options import TrainOptions
from oodguard.training.photos.division import label_numbers
from oodguard.training.photos.labelled import Photo, identity, load_photos, load_unlabelled
from oodguard.training.progress import Reporter

CORRUPTED_IMAGES = 300
LEFT_OUT_SHARE = 0.235
SCRATCH = Schedule(epochs=40, batch=64, lr=1e-3, weight_decay=0.05)
FINE_TUNE = Schedule(epochs=10, batch=64, lr=5e-4, weight_decay=0.05)
QUICK_EPOCHS = 12
FORMAT = 1


@dataclass(frozen=True)
class FolderSuite:
    """Labelled photos as ID, folders as OOD sets.

    Folders are looked for under the data root. `ood`: kind and folder by name. `tune` as `oodguard train` takes it.
    """

    name: str
    summary: str
    inside: Path
    ood: Mapping[str, tuple[Kind, Path]] = field(default_factory=dict)
    outliers: Path | None = None
    tune: bool = True
    left_out: bool = True

    def plans(self, setting: BenchSetting, seed: int) -> list[BenchPlan]:
        """Both arenas, or one where the suite leaves nothing out."""
        options = TrainOptions(
            data=setting.data / self.inside,
            cache=setting.cache,
            seed=seed,
            tune=self.tune,
            outliers=None if self.outliers is None else setting.data / self.outliers,
            threads=setting.threads,
            backbone=setting.backbone,
            image_size=setting.image_size,
            views=1 if setting.quick else 3,
            tune_epochs=3 if setting.quick else 6,
        )
        photos = load_photos(options.data, options.cache)
        plans = [self._plan("all classes", options, setting, photos.fingerprint)]
        if self.left_out and len(photos.classes) >= 4:
            count = max(round(LEFT_OUT_SHARE * len(photos.classes)), 1)
            plans.append(
                self._plan("left out", options.model_copy(update={"leave_out": count}), setting, photos.fingerprint)
            )
        return plans

    def _plan(self, arena: str, options: TrainOptions, setting: BenchSetting, fingerprint: str) -> BenchPlan:
        sets = {name: (kind, load_unlabelled(setting.data / folder)) for name, (kind, folder) in self.ood.items()}
        key: dict[str, str | int | float | bool | None] = {
            "format": FORMAT,
            "arena": arena,
            "seed": options.seed,
            "photos": fingerprint,
            "ood": identity(p for _, photos in sets.values() for p in photos),
            "outliers": None if options.outliers is None else identity(load_unlabelled(options.outliers)),
            "leave_out": options.leave_out,
            "tune": options.tune,
            "backbone": options.backbone,
            "image_size": options.image_size,
            "quick": setting.quick,
        }
        if options.leave_out:
            sets = {}

        def build(compute: Fabric, report: Reporter) -> Arena:
            return store.kept(
                store.path_of(setting.cache, key),
                compute,
                lambda: _arena(options, setting, sets, compute, report),
                lambda inputs: feature_space(inputs[0], setting),
            )

        return BenchPlan(name=arena, seed=options.seed, key={**key, **heads_key(setting)}, build=build)


def _arena(
    options: TrainOptions,
    setting: BenchSetting,
    sets: Mapping[str, tuple[Kind, tuple[Photo, ...]]],
    compute: Fabric,
    report: Reporter,
) -> Arena:
    learned = learning_set(options, compute, report)
    extractor, tail, classes = learned.extractor, learned.backbone.tail, learned.photos.classes

    def features(photos: tuple[Photo, ...], what: str) -> Tensor:
        readable = extractor.readable(photos, lambda done, total: report.progress(what, done, total))
        return tail_features(tail, extractor.extract(readable)[0])

    def labels(photos: tuple[Photo, ...]) -> Tensor:
        return torch.from_numpy(label_numbers(photos, classes))

    division = learned.division
    ood = {name: OodSet(kind, features(photos, f"features of {name}")) for name, (kind, photos) in sets.items()}
    if options.leave_out:
        everything = load_photos(options.data, options.cache)
        missing = tuple(p for p in (everything.test or everything.pool) if p.label not in classes)
        ood["left-out classes"] = OodSet("near", features(missing, "features of left-out classes"))
    else:
        count = CORRUPTED_IMAGES // 3 if setting.quick else CORRUPTED_IMAGES
        places = np.linspace(0, len(division.test) - 1, min(count, len(division.test))).round().astype(int)
        chosen = tuple(division.test[i] for i in places)
        for corrupted in corruptions((1, 5) if setting.quick else (1, 2, 3, 4, 5)):
            altered = replace(extractor, alteration=corrupted)
            activations = altered.extract(
                chosen, progress=lambda done, total: report.progress("features of corrupted photos", done, total)
            )
            ood[corrupted.name] = OodSet("covariate", tail_features(tail, activations[0]), labels(chosen))
    problem = LearningProblem(
        inputs=learned.features,
        targets=learned.targets,
        held=features(division.calibration, "features of calibration photos"),
        held_targets=labels(division.calibration),
        outliers=learned.outliers,
        classes=len(classes),
        space=feature_space(learned.features[0], setting),
        seed=options.seed,
    )
    test = features(division.test, "features of test photos")
    return Arena(problem=problem, test=test, test_targets=labels(division.test), ood=ood)


def feature_space(features: Tensor, setting: BenchSetting) -> FeatureSpace:
    """Two-layer heads over frozen features `[N, D]`, and how long they train."""
    scratch, fine_tune = schedules(setting)
    return FeatureSpace.of(features, hidden=setting.hidden, scratch=scratch, fine_tune=fine_tune)


def heads_key(setting: BenchSetting) -> dict[str, str | int]:
    """What a trial in features depends on beside its arena."""
    return {"hidden": setting.hidden, "schedules": repr(schedules(setting))}


def schedules(setting: BenchSetting) -> tuple[Schedule, Schedule]:
    """How long heads train from nothing, and how long trained ones go on."""
    if setting.quick:
        return replace(SCRATCH, epochs=QUICK_EPOCHS), replace(FINE_TUNE, epochs=QUICK_EPOCHS // 3)
    return SCRATCH, FINE_TUNE


_NEIGHBOURS: dict[str, tuple[Kind, Path]] = {
    "packages": ("near", Path("packages/test")),
    "clothing": ("far", Path("clothing/test")),
}

SUITES: dict[str, FolderSuite] = {
    suite.name: suite
    for suite in (
        FolderSuite(
            name="produce",
            summary="ID produce; near: left-out classes, packages; far: clothing; corruptions; tuned features",
            inside=Path("produce"),
            ood=_NEIGHBOURS,
            outliers=Path("outliers"),
        ),
        FolderSuite(
            name="produce-frozen",
            summary="the same on frozen features, nothing left out",
            inside=Path("produce"),
            ood=_NEIGHBOURS,
            outliers=Path("outliers"),
            tune=False,
            left_out=False,
        ),
        FolderSuite(
            name="clothing",
            summary="ID clothing; far: produce, packages; corruptions; tuned features",
            inside=Path("clothing"),
            ood={"produce": ("far", Path("produce/test")), "packages": ("far", Path("packages/test"))},
            outliers=Path("outliers"),
            left_out=False,
        ),
    )
}

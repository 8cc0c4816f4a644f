"""Suites of photo folders: features of EfficientNet-Lite0 (or any timm model), with its last stage tuned as served.

Two arenas per seed: `all classes`, against the OOD sets and corrupted test photos, and `left out`, where a quarter of
the classes (8 of 34 for produce) is kept out of training and their test photos are the near-OOD set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from oodguard.bench.arena import Arena, BenchPlan, BenchSetting, Kind, OodSet
from oodguard.bench.problem import LearningProblem
from oodguard.bench.spaces.features import FeatureSpace
from oodguard.bench.suites import store
from oodguard.bench.suites.corruptions import Corrupted, corruptions
from oodguard.core.errors import InputError
from oodguard.training.backbone.learning_set import LearningSet, learning_set
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

    Folders are looked for under the data root. `ood_sets`: kind and folder by name. `tune`: whether the
    backbone is fine-tuned. `left_out`: whether there is an arena `left out`.
    """

    name: str
    summary: str
    photos: Path
    ood_sets: Mapping[str, tuple[Kind, Path]] = field(default_factory=dict)
    outliers: Path | None = None
    tune: bool = True
    left_out: bool = True

    def plans(self, setting: BenchSetting, seed: int) -> list[BenchPlan]:
        """`all classes`, and `left out` unless the suite leaves nothing out. Raises `InputError` for missing data."""
        if setting.network is not None:
            raise InputError("--network belongs to the suite cifar10; leave it out, or choose a --backbone")
        options = TrainOptions(
            data=setting.data / self.photos,
            cache=setting.cache,
            seed=seed,
            fine_tune=self.tune,
            outliers=None if self.outliers is None else setting.data / self.outliers,
            threads=setting.threads,
            backbone=setting.backbone,
            image_size=setting.image_size,
            views=1 if setting.quick else 3,
            fine_tune_epochs=3 if setting.quick else 6,
            # Methods are compared on the feature that a classifier has: tuned for labels alone.
            retain=0.0,
        )
        photos = load_photos(options.data, options.cache, options.folder_rules)
        plans = [self._plan("all classes", options, setting, photos.fingerprint)]
        if self.left_out and len(photos.classes) >= 4:
            count = max(round(LEFT_OUT_SHARE * len(photos.classes)), 1)
            plans.append(
                self._plan("left out", options.model_copy(update={"leave_out": count}), setting, photos.fingerprint)
            )
        return plans

    def _plan(self, arena: str, options: TrainOptions, setting: BenchSetting, fingerprint: str) -> BenchPlan:
        ood_photos = {
            name: (kind, load_unlabelled(setting.data / folder)) for name, (kind, folder) in self.ood_sets.items()
        }
        key: dict[str, str | int | float | bool | None] = {
            "format": FORMAT,
            "arena": arena,
            "seed": options.seed,
            "photos": fingerprint,
            "ood": identity(p for _, photos in ood_photos.values() for p in photos),
            "outliers": None if options.outliers is None else identity(load_unlabelled(options.outliers)),
            "leave_out": options.leave_out,
            "tune": options.fine_tune,
            "backbone": options.backbone,
            "image_size": options.image_size,
            "quick": setting.quick,
        }
        if options.leave_out:
            ood_photos = {}

        def build(compute: Fabric, report: Reporter) -> Arena:
            return store.kept(
                store.path_of(setting.cache, key),
                compute,
                lambda: _arena(options, setting, ood_photos, compute, report),
                lambda inputs: feature_space(inputs[0], setting),
            )

        return BenchPlan(name=arena, seed=options.seed, key={**key, **heads_key(setting)}, build=build)


def _arena(
    options: TrainOptions,
    setting: BenchSetting,
    ood_photos: Mapping[str, tuple[Kind, tuple[Photo, ...]]],
    compute: Fabric,
    report: Reporter,
) -> Arena:
    learned = learning_set(options, compute, report)
    division, classes = learned.division, learned.photos.classes
    view = _View(learned, report)
    ood_sets = {name: OodSet(kind, view.features(photos, name)) for name, (kind, photos) in ood_photos.items()}
    if options.leave_out:
        everything = load_photos(options.data, options.cache, options.folder_rules)
        left_out = tuple(p for p in (everything.test or everything.pool) if p.label not in classes)
        ood_sets["left-out classes"] = OodSet("near", view.features(left_out, "left-out classes"))
    else:
        count = CORRUPTED_IMAGES // 3 if setting.quick else CORRUPTED_IMAGES
        places = np.linspace(0, len(division.test) - 1, min(count, len(division.test))).round().astype(int)
        chosen = tuple(division.test[i] for i in places)
        for corrupted in corruptions((1, 5) if setting.quick else (1, 2, 3, 4, 5)):
            ood_sets[corrupted.name] = view.corrupted(chosen, corrupted)
    problem = LearningProblem(
        inputs=learned.features,
        targets=learned.targets,
        calibration=view.features(division.calibration, "calibration photos"),
        calibration_targets=view.labels(division.calibration),
        outliers=learned.outliers,
        classes=len(classes),
        space=feature_space(learned.features[0], setting),
        seed=options.seed,
    )
    test = view.features(division.test, "test photos")
    return Arena(problem=problem, test=test, test_targets=view.labels(division.test), ood_sets=ood_sets)


@dataclass(frozen=True)
class _View:
    """Photos as the tuned network sees them."""

    learned: LearningSet
    report: Reporter

    def features(self, photos: tuple[Photo, ...], what: str) -> Tensor:
        """`[N, D]` of the photos that can be read."""
        extractor = self.learned.extractor
        readable = extractor.readable(photos, partial(self.report.progress, f"features of {what}"))
        return tail_features(self.learned.backbone.tail, extractor.extract(readable)[0])

    def labels(self, photos: tuple[Photo, ...]) -> Tensor:
        """The classes `[N]`."""
        return torch.from_numpy(label_numbers(photos, self.learned.photos.classes))

    def corrupted(self, photos: tuple[Photo, ...], corruption: Corrupted) -> OodSet:
        """The photos under one corruption, with their classes."""
        altered = replace(self.learned.extractor, alteration=corruption)
        activations = altered.extract(photos, progress=partial(self.report.progress, "features of corrupted photos"))
        return OodSet("covariate", tail_features(self.learned.backbone.tail, activations[0]), self.labels(photos))


def feature_space(features: Tensor, setting: BenchSetting) -> FeatureSpace:
    """Two-layer heads over frozen features `[N, D]`, and how long they train."""
    scratch, fine_tune = schedules(setting)
    return FeatureSpace.of(features, hidden=setting.hidden, scratch=scratch, fine_tune=fine_tune)


def heads_key(setting: BenchSetting) -> dict[str, str | int]:
    """What a trial in features depends on, apart from its arena."""
    return {"hidden": setting.hidden, "schedules": repr(schedules(setting))}


def schedules(setting: BenchSetting) -> tuple[Schedule, Schedule]:
    """The schedules of heads trained from scratch, and of heads that are fine-tuned."""
    if setting.quick:
        return replace(SCRATCH, epochs=QUICK_EPOCHS), replace(FINE_TUNE, epochs=QUICK_EPOCHS // 3)
    return SCRATCH, FINE_TUNE


_NEIGHBOURS: dict[str, tuple[Kind, Path]] = {
    "packages": ("near", Path("packages/test")),
    "clothing": ("far", Path("clothing/test")),
}

FOLDER_SUITES = (
    FolderSuite(
        name="produce",
        summary="ID produce; near: left-out classes, packages; far: clothing; corruptions; tuned features",
        photos=Path("produce"),
        ood_sets=_NEIGHBOURS,
        outliers=Path("outliers"),
    ),
    FolderSuite(
        name="produce-frozen",
        summary="ID produce; near: packages; far: clothing; corruptions; frozen features",
        photos=Path("produce"),
        ood_sets=_NEIGHBOURS,
        outliers=Path("outliers"),
        tune=False,
        left_out=False,
    ),
    FolderSuite(
        name="clothing",
        summary="ID clothing; far: produce, packages; corruptions; tuned features",
        photos=Path("clothing"),
        ood_sets={"produce": ("far", Path("produce/test")), "packages": ("far", Path("packages/test"))},
        outliers=Path("outliers"),
        left_out=False,
    ),
)

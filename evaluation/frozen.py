"""The frozen feature of a run's photos: what the pretrained network says, before any fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from oodguard.core.errors import InputError
from oodguard.training.backbone.features import Extractor
from oodguard.training.backbone.sources import backbone_of
from oodguard.training.backbone.tail import tail_features
from oodguard.training.options import TrainOptions
from oodguard.training.photos.division import Labels, found_again, label_numbers
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.progress import Reporter
from oodguard.training.run import Run

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of N photos, `[N, D]`, of length 1; their classes and their near-duplicate groups, `[N]` each."""

    features: Features
    labels: Labels
    groups: Labels


@dataclass(frozen=True)
class FrozenFeatures:
    """The frozen feature, of length 1, of everything that a run is made of and measured on.

    calibration: None for a cross-fitted run, whose training photos also calibrate, in `options.cross_fit` parts.
    targets: classes of the test photos. ood: by set.
    """

    options: TrainOptions
    training: LabelledFeatures
    calibration: LabelledFeatures | None
    test: Features
    targets: Labels
    ood: Mapping[str, Features]


def frozen_features(
    run: Run,
    photos: Photos,
    options: TrainOptions,
    extractor: Extractor,
    *,
    test: Sequence[Photo],
    ood: Mapping[str, Sequence[Photo]],
    report: Reporter,
) -> FrozenFeatures:
    """Frozen features from cached trunk activations.

    Raises an `OodguardError` that says why where the original network cannot be had, or training photos are missing.
    """
    tail, extractor = _original(run, options, extractor)
    classes, division = run.record.classes, run.division

    def of(found: Sequence[Photo]) -> Features:
        stage = "features for the baselines"
        activations = extractor.extract(found, progress=lambda done, total: report.progress(stage, done, total))[0]
        features = extractor.backbone.feature(tail_features(tail, activations)).numpy()
        return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))

    def labelled(part: Mapping[str, Mapping[str, int]]) -> LabelledFeatures:
        found = found_again(photos, part)
        groups = np.array([part[photo.label][photo.sha256] for photo in found], dtype=np.int64)
        return LabelledFeatures(features=of(found), labels=label_numbers(found, classes), groups=groups)

    return FrozenFeatures(
        options=options,
        training=labelled(division.training),
        calibration=None if options.cross_fit else labelled(division.calibration),
        test=of(test),
        targets=label_numbers(test, classes),
        ood={name: of(found) for name, found in ood.items()},
    )


def _original(run: Run, options: TrainOptions, extractor: Extractor) -> tuple[nn.Module, Extractor]:
    """The tail as it was before fine-tuning, and an extractor for the trunk as it was."""
    record = run.record.backbone
    if record.cut is None and record.tuned_sha256 is None:
        return run.tail, extractor
    original = backbone_of(options)
    if original.weights_sha256 != record.weights_sha256:
        raise InputError("the network as it was before fine-tuning cannot be had again: its weights are others now")
    if record.tuned_sha256 is None:
        return original.tail, extractor
    return original.tail, Extractor(original, cache=extractor.cache, threads=extractor.threads)

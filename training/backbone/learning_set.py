"""From photos to the features that heads are trained on: divided, cached, the last stage tuned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor

from oodguard.training.backbone.features import Extractor
from oodguard.training.backbone.network import Backbone
from oodguard.training.backbone.sources import load_backbone
from oodguard.training.backbone.tail import tail_features, tune_tail
from oodguard.training.options import TrainOptions
from oodguard.training.photos.division import Division, chosen_photos, divide, label_numbers
from oodguard.training.photos.labelled import Photos, load_unlabelled
from oodguard.training.progress import Reporter


@dataclass(frozen=True)
class LearningSet:
    """Everything that heads learn from.

    features: of the training photos in all views, `[V, N, D]`; targets `[N]`. outliers: features `[O, D]` of the
    user's outliers. frozen: features of training and calibration photos before tuning.
    """

    photos: Photos
    backbone: Backbone
    extractor: Extractor
    division: Division
    frozen: npt.NDArray[np.float32]
    features: Tensor
    targets: Tensor
    outliers: Tensor | None


def learning_set(options: TrainOptions, compute: Fabric, report: Reporter) -> LearningSet:
    """Find, divide and featurise the photos. All processes call it; the first one fills the cache of activations."""
    photos, left_out = chosen_photos(options)
    if left_out:
        report.note(f"left out {len(left_out)} classes: {', '.join(sorted(left_out))}")
    torch.manual_seed(options.seed)  # for weights that start at random
    backbone = load_backbone(
        options.backbone, weights=options.weights, image_size=options.image_size, tune=options.tune
    )
    extractor = Extractor(backbone, cache=options.cache, on_unreadable=options.on_unreadable, threads=options.threads)
    with compute.rank_zero_first():
        division, frozen = divide(photos, extractor, options, report)
        activations = extractor.extract(
            division.training,
            views=range(options.views + 1),
            progress=lambda done, total: report.progress("augmented views", done, total),
        )
        strange = None
        if options.outliers is not None:
            strange = extractor.extract(extractor.readable(load_unlabelled(options.outliers)))[0]
    targets = torch.from_numpy(label_numbers(division.training, photos.classes))
    if options.tune:
        tune_tail(
            backbone.tail,
            activations,
            targets,
            options,
            classes=len(photos.classes),
            width=backbone.width,
            compute=compute,
            progress=lambda e: report.progress(f"fine-tuning (loss {e.loss:.3f})", e.epoch, e.epochs),
        )
    return LearningSet(
        photos=photos,
        backbone=backbone,
        extractor=extractor,
        division=division,
        frozen=frozen,
        features=torch.stack([tail_features(backbone.tail, view) for view in activations]),
        targets=targets,
        outliers=None if strange is None else tail_features(backbone.tail, strange),
    )

"""From photos to the features that heads are trained on: divided, cached, the last stage tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from oodguard.training.backbone.features import Activations, Extractor
from oodguard.training.backbone.network import Backbone
from oodguard.training.backbone.sources import backbone_of
from oodguard.training.backbone.tail import tail_features, tune_tail
from oodguard.training.backbone.whole import tune_whole
from oodguard.training.options import TrainOptions
from oodguard.training.photos.division import Division, chosen_photos, divide, label_numbers
from oodguard.training.photos.kinds import parse_kinds
from oodguard.training.photos.labelled import Photo, Photos, load_unlabelled
from oodguard.training.photos.minimum import Minimum
from oodguard.training.photos.suspects import label_line
from oodguard.training.progress import Reporter
from oodguard.training.unfinished import Unfinished
from oodguard.training.wrapped import Wrapped


@dataclass(frozen=True)
class LearningSet:
    """Everything that heads learn from.

    classes: what the probabilities are of; known: those that there are photos of, which targets are numbers of. The two
    differ only around a wrapped classifier. activations: trunk activations of the training photos in all views,
    `[V, N, ...]`. frozen: their features before tuning, `[V, N, R]`; features: after it. targets `[N]`. held: features
    of the calibration photos before tuning, `[H, R]`. strange: trunk activations of the user's outliers, `[O, ...]`.
    """

    photos: Photos
    classes: tuple[str, ...]
    known: tuple[str, ...]
    backbone: Backbone
    extractor: Extractor
    division: Division
    activations: Activations
    frozen: Tensor
    features: Tensor
    targets: Tensor
    held: Tensor
    strange: Activations | None

    @property
    def covered(self) -> tuple[int, ...]:
        """Which of `classes` are `known`; none where all are."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        return () if self.known == self.classes else tuple(numbers[name] for name in self.known)

    @property
    def outliers(self) -> Tensor | None:
        """Features `[O, D]` of the user's outliers, after tuning."""
        return self.outliers_of(self.backbone)

    def outliers_of(self, backbone: Backbone) -> Tensor | None:
        """Features `[O, D]` of the user's outliers by another tail."""
        return None if self.strange is None else tail_features(backbone.tail, self.strange)


def learning_set(
    options: TrainOptions,
    compute: Fabric,
    report: Reporter,
    wrapped: Wrapped | None = None,
    *,
    unfinished: Unfinished | None = None,
) -> LearningSet:
    """Find, divide and featurise the photos. All processes call it; the first one fills the cache of activations.

    unfinished: where an interrupted fine-tuning goes on; None: nowhere.
    """
    photos, left_out = chosen_photos(options) if wrapped is None else (wrapped.photos, frozenset())
    if wrapped is None and options.exclude is not None:
        line = label_line(photos, options.exclude, parse_kinds(options.exclude_kinds))
        if line is not None:
            report.note(line)
    classes, known = (photos.classes,) * 2 if wrapped is None else (wrapped.classes, wrapped.known)
    if left_out:
        report.note(f"left out {len(left_out)} classes: {', '.join(sorted(left_out))}")
    minimum = Minimum(options, tested=bool(photos.test), held=bool(photos.held))
    minimum.require(len(photos.held or photos.pool), wrapped=wrapped is not None)
    backbone = backbone_of(options) if wrapped is None else wrapped.backbone(threads=options.threads)
    tune = options.fine_tune and backbone.whole_because is None
    if backbone.whole_because is not None:
        report.note(f"{backbone.name} stays frozen, as with --no-fine-tune: {backbone.whole_because}")
    for line in backbone.notes:
        report.note(line)
    extractor = Extractor(backbone, cache=options.cache, on_unreadable=options.on_unreadable, threads=options.threads)
    with compute.rank_zero_first():
        division, plain, held = divide(photos, extractor, options, report)
        activations = extractor.extract(
            division.training,
            views=range(options.views + 1),
            progress=lambda done, total: report.progress("augmented views", done, total),
        )
    targets = torch.from_numpy(label_numbers(division.training, known))
    frozen = torch.stack([plain, *(tail_features(backbone.tail, view) for view in activations[1:])])
    if options.fine_tune and options.fine_tune_part == "all":
        backbone = tuned_whole(backbone, division.training, targets, options, compute, report, unfinished=unfinished)
        extractor = replace(extractor, backbone=backbone, _run=None)
        with compute.rank_zero_first():
            activations = extractor.extract(
                division.training,
                views=range(options.views + 1),
                progress=lambda done, total: report.progress("features of the tuned backbone", done, total),
            )
    elif tune:
        tuned_tail(backbone, activations, frozen, targets, options, compute, report, unfinished=unfinished)
    strange = None
    if options.outliers is not None:
        with compute.rank_zero_first():
            strange = extractor.extract(extractor.readable(load_unlabelled(options.outliers)))[0]
    return LearningSet(
        photos=photos,
        classes=classes,
        known=known,
        backbone=backbone,
        extractor=extractor,
        division=division,
        activations=activations,
        frozen=frozen,
        features=view_features(backbone.tail, activations) if tune else frozen,
        targets=targets,
        held=held,
        strange=strange,
    )


def view_features(tail: nn.Module, activations: Activations) -> Tensor:
    """Features `[V, N, D]` of trunk activations `[V, N, ...]`."""
    return torch.stack([tail_features(tail, view) for view in activations])


def tuned_whole(
    backbone: Backbone,
    photos: Sequence[Photo],
    targets: Tensor,
    options: TrainOptions,
    compute: Fabric,
    report: Reporter,
    *,
    unfinished: Unfinished | None = None,
) -> Backbone:
    """The backbone, all of it fine-tuned."""
    found = tune_whole(
        backbone,
        photos,
        targets,
        options,
        classes=int(targets.max()) + 1,
        compute=compute,
        progress=report.progress,
        unfinished=unfinished,
    )
    report.note(
        f"fine-tuned the whole backbone: loss {found.losses[0]:.3f} in the first epoch, {found.losses[-1]:.3f} "
        f"in the last of {len(found.losses)}"
    )
    return found.backbone


def tuned_tail(
    backbone: Backbone,
    activations: Activations,
    frozen: Tensor,
    targets: Tensor,
    options: TrainOptions,
    compute: Fabric,
    report: Reporter,
    *,
    unfinished: Unfinished | None = None,
) -> None:
    """Fine-tune the backbone's tail in place; from where it was interrupted, if `unfinished` knows of that."""
    tune_tail(
        backbone.tail,
        activations,
        frozen,
        targets,
        options,
        classes=int(targets.max()) + 1,
        width=backbone.width,
        compute=compute,
        progress=lambda e: report.progress(f"fine-tuning (loss {e.loss:.3f})", e.epoch, e.epochs),
        unfinished=unfinished,
    )

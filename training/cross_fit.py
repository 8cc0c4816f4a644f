"""Cross-fitting: thresholds from photos that also train, each scored by a guard that did not see it.

The photos are divided into K parts, near-duplicates together. For each part the tail is tuned and the heads are trained
on the others, and the part is scored; the guard that is kept is trained on all photos. Its thresholds come from all of
them instead of from a few that were set aside, and no photo is lost to training (cross-conformal prediction, Vovk
2015: the promise holds for guards trained on a share 1 - 1/K of the photos, which is a little less sure of itself).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lightning_fabric import Fabric

from oodguard.core.collusion import CollusionReport
from oodguard.core.errors import InputError
from oodguard.training.answers import Answers, head_answers
from oodguard.training.backbone.learning_set import LearningSet, tuned_tail, view_features
from oodguard.training.backbone.sources import backbone_of
from oodguard.training.backbone.tail import tail_features
from oodguard.training.heads.guard import diagnose_heads, fit_heads
from oodguard.training.options import TrainOptions
from oodguard.training.photos.division import Labels
from oodguard.training.photos.split import parts_of
from oodguard.training.progress import Reporter
from oodguard.training.unfinished import Unfinished


@dataclass(frozen=True)
class CrossFitted:
    """Out-of-fold answers for all training photos, in their order, and the first fold's diagnosis."""

    answers: Answers
    diagnosis: CollusionReport


def cross_fit(
    learning: LearningSet, options: TrainOptions, compute: Fabric, report: Reporter, unfinished: Unfinished
) -> CrossFitted:
    """Score every training photo by a guard trained without its part. Raises `InputError` for a class too small."""
    targets = learning.targets.numpy()
    groups = [learning.division.groups[photo] for photo in learning.division.training]
    parts = parts_of(targets, groups, count=options.cross_fit, seed=options.seed)
    found: list[tuple[Labels, Answers]] = []
    diagnosis = None
    for number, held in enumerate(parts):
        rest = np.setdiff1d(np.arange(len(targets)), held)
        if missing := np.setdiff1d(targets, targets[rest]).tolist():
            raise InputError(
                f"all photos of {learning.known[missing[0]]} fall into one part; add photos, or cross-fit less"
            )
        report.note(f"cross-fitting, part {number + 1} of {len(parts)}")
        tune = options.fine_tune and learning.backbone.whole_because is None
        backbone = backbone_of(options) if tune else learning.backbone
        labels = learning.targets[rest]
        activations, frozen = learning.activations[:, rest], learning.frozen[:, rest]
        if tune:
            tuned_tail(backbone, activations, frozen, labels, options, compute, report, unfinished=unfinished)
        features = view_features(backbone.tail, activations) if tune else frozen
        heads = fit_heads(
            features,
            labels,
            options,
            classes=len(learning.known),
            rows=backbone.rows,
            outliers=learning.outliers_of(backbone),
            compute=compute,
        )
        if learning.covered:
            heads.cover(learning.covered)
        left = tail_features(backbone.tail, learning.activations[0][held])
        found.append((held, head_answers(heads, left)))
        if diagnosis is None:
            diagnosis = diagnose_heads(heads, (left, learning.targets[held]), (features[0], labels))
    assert diagnosis is not None
    order = np.argsort(np.concatenate([held for held, _ in found]))
    answered = [answers for _, answers in found]
    return CrossFitted(
        answers=Answers(
            probabilities=np.concatenate([part.probabilities for part in answered])[order],
            votes=np.concatenate([part.votes for part in answered], axis=1)[:, order],
            scores={
                name: np.concatenate([part.scores[name] for part in answered])[order] for name in answered[0].scores
            },
        ),
        diagnosis=diagnosis,
    )

"""Out-of-fold answers: what heads say of training photos that they did not see, beside what they say of held-out ones.

The few photos that are set aside to calibrate come from few scenes, and luck decides how easy those are. Here the
training photos are divided into parts, near-duplicates together; for each part, heads are trained on the frozen feature
of the others. They score the part and the calibration photos alike, so that each photo of the part finds its place on
the curve of the calibration photos: a level, which a tuned network's own curve turns into a score. The frozen feature
saw no label. Nothing is tuned again, which would take as long as training did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from oodguard.core.answering import LabelledPhotos, Labels
from oodguard.core.calibration import Calibration
from oodguard.core.fusion import LeftOutCheck
from oodguard.training.answers import head_answers
from oodguard.training.heads.guard import fit_heads
from oodguard.training.heads.rows import Rows
from oodguard.training.options import TrainOptions

# From so many calibration photos up they need no help.
ENOUGH = 5000


@dataclass(frozen=True)
class FrozenPhotos:
    """Frozen features of training photos `[V, N, D]` with their classes and near-duplicate groups `[N]`, and of
    calibration photos `[H, D]`."""

    features: Tensor
    targets: Tensor
    groups: Labels
    held: Tensor
    rows: Rows | None = None


def out_of_fold(
    photos: FrozenPhotos,
    options: TrainOptions,
    *,
    classes: int,
    check: LeftOutCheck | None,
    compute: Fabric | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LabelledPhotos | None:
    """Surprise and probabilities of the training photos by heads that did not see them.

    None where `options.out_of_fold` is 0, where the calibration photos are many, or where no part can be left out
    without a class. Deterministic for the options' seed.
    """
    targets = photos.targets.numpy()
    smallest = min((len(np.unique(photos.groups[targets == c])) for c in range(classes)), default=0)
    folds = min(options.out_of_fold, smallest)
    if folds < 2 or len(photos.held) >= ENOUGH:
        return None
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=options.seed)
    parts: list[Labels] = []
    surprises, probabilities = [], []
    for number, (rest, part) in enumerate(splitter.split(targets, targets, photos.groups)):
        if len(np.unique(targets[rest])) == classes:
            heads = fit_heads(
                photos.features[:, rest],
                torch.from_numpy(targets[rest]),
                options.of_folds(),
                classes=classes,
                rows=photos.rows,
                compute=compute,
            )
            usual = Calibration.fit(head_answers(heads, photos.held).scores, check=check)
            left = head_answers(heads, photos.features[0][part])
            surprises.append(usual.surprise(left.scores))
            probabilities.append(left.probabilities)
            parts.append(part)
        if progress:
            progress(number + 1, folds)
    if not parts:
        return None
    rows = np.concatenate(parts)
    order = np.argsort(rows)
    return LabelledPhotos(
        surprise=np.concatenate(surprises)[order],
        probabilities=np.concatenate(probabilities)[order],
        targets=targets[rows[order]],
        groups=photos.groups[rows[order]],
    )

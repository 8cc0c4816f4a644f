"""The check that chooses the fused score: classes left out of the user's own training photos, told from the others.

Each fold leaves a part of the classes out, trains the heads on the frozen feature of the others, and scores the photos
of the left-out classes beside held-out photos of the others. The frozen feature never saw a label, so the left-out
classes are as strange to it as a class that nobody collected; a tuned one would have learned to tell them apart. It
needs no image that is not a training photo, and no tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from oodguard.core.calibration import MIN_CALIBRATION
from oodguard.core.curve import QuantileCurve, Scores
from oodguard.core.fusion import Fusion, LeftOutCheck, chosen_members
from oodguard.core.scores import ScoreName
from oodguard.core.targets import DEFAULT_ACCEPT
from oodguard.training.answers import head_answers
from oodguard.training.heads.guard import fit_heads
from oodguard.training.heads.rows import Rows
from oodguard.training.metrics import auroc
from oodguard.training.options import TrainOptions
from oodguard.training.photos.division import Labels

# Shares of the confidence family that are tried. Density keeps a fifth: one false alarm in 100 images at a target of
# 95 %, which far OOD needs and left-out classes cannot show.
SHARES = (0.5, 0.6, 0.7, 0.8)
# Of the epochs of head training: the order of the scores is settled long before their last digit.
EPOCHS_SHARE = 0.5


@dataclass(frozen=True)
class Labelled:
    """Frozen features of photos, `[V, N, D]` in V views with the plain one first, and their classes `[N]`.

    rows: what rows of features hold; None: features alone. covered: which classes of a wrapped classifier these are.
    """

    features: Tensor
    targets: Tensor
    rows: Rows | None = None
    covered: tuple[int, ...] = ()

    def of(self, classes: Labels) -> tuple[Tensor, Tensor]:
        """The features of the photos of `classes` `[V, n, D]`, and their place in `classes` `[n]`."""
        rows = torch.from_numpy(np.flatnonzero(np.isin(self.targets.numpy(), classes)))
        places = np.searchsorted(classes, self.targets[rows].numpy())
        return self.features[:, rows], torch.from_numpy(places)

    def without(self, classes: Labels) -> Labelled:
        """The same photos as a classifier would see them that does not know `classes`."""
        if self.rows is None:
            return self
        covered = np.asarray(self.covered or range(self.rows.own_classes))
        own = np.setdiff1d(np.arange(self.rows.own_classes), covered[classes])
        rows, features = self.rows.of_classes(self.features, own.tolist())
        return Labelled(features, self.targets, rows)


@dataclass(frozen=True)
class _Fold:
    """Scores of held-out photos of known classes and of photos of left-out ones, `{name: [n]}`."""

    known: Mapping[ScoreName, Scores]
    strange: Mapping[ScoreName, Scores]

    @property
    def images(self) -> int:
        return len(next(iter(self.strange.values())))

    @cached_property
    def curves(self) -> dict[ScoreName, QuantileCurve]:
        return {name: QuantileCurve.fit(values) for name, values in self.known.items()}


def check_left_out(
    training: Labelled,
    held: Labelled,
    options: TrainOptions,
    *,
    classes: int,
    compute: Fabric | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LeftOutCheck | None:
    """What every score tells of left-out classes, from training photos and `held` ones, which calibrate.

    None where there are too few classes or held photos to say. Deterministic for the options' seed.
    """
    folds = min(options.check_folds, classes)
    order = np.random.default_rng(options.seed).permutation(classes)
    parts = [np.sort(part) for part in np.array_split(order, folds)] if folds else []
    lighter = options.of_folds(epochs=max(1, round(options.epochs * EPOCHS_SHARE)))
    found: list[_Fold] = []
    for number, left_out in enumerate(parts):
        known = np.setdiff1d(np.arange(classes), left_out)
        if len(known) >= 2:
            found += _fold(training, held, lighter, known=known, left_out=left_out, compute=compute)
        if progress:
            progress(number + 1, len(parts))
    return _summary(found) if found else None


def _fold(
    training: Labelled,
    held: Labelled,
    options: TrainOptions,
    *,
    known: Labels,
    left_out: Labels,
    compute: Fabric | None,
) -> list[_Fold]:
    training, held = training.without(left_out), held.without(left_out)
    features, targets = training.of(known)
    calibration = held.of(known)[0][0]
    strange = torch.cat([part.of(left_out)[0][0] for part in (training, held)])
    if len(calibration) < MIN_CALIBRATION or not len(strange):
        return []
    heads = fit_heads(features, targets, options, classes=len(known), rows=training.rows, compute=compute)
    return [_Fold(known=head_answers(heads, calibration).scores, strange=head_answers(heads, strange).scores)]


def _summary(folds: list[_Fold]) -> LeftOutCheck:
    def mean(figure: Callable[[_Fold], float]) -> float:
        return round(float(np.mean([figure(fold) for fold in folds])), 2)

    names = list(folds[0].known)
    shown = LeftOutCheck(
        folds=len(folds),
        images=sum(fold.images for fold in folds),
        auroc={name: mean(lambda f, n=name: 100.0 * auroc(f.known[n], f.strange[n])) for name in names},  # type: ignore[misc]
        let_in={name: mean(lambda f, n=name: _let_in(f.known[n], f.strange[n])) for name in names},  # type: ignore[misc]
        shares={},
    )
    members = chosen_members(names, shown)
    shares = {share: mean(lambda f, s=share: _fused_let_in(f, members, s)) for share in SHARES}  # type: ignore[misc]
    return shown.model_copy(update={"shares": shares})


def _let_in(known: Scores, strange: Scores) -> float:
    """Percent of strange photos accepted where 95 % of the known ones are."""
    return 100.0 * float(np.mean(strange <= np.quantile(known, DEFAULT_ACCEPT, method="inverted_cdf")))


def _fused_let_in(fold: _Fold, members: tuple[ScoreName, ...], share: float) -> float:
    fusion = Fusion.fit(fold.curves, fold.known, members=members, share=share)
    return _let_in(fusion.score(fold.curves, fold.known), fusion.score(fold.curves, fold.strange))

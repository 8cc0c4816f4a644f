"""The fused score: one number from all calibrated scores. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from oodguard.core.curve import QuantileCurve, Scores
from oodguard.core.frozen import Frozen
from oodguard.core.scores import REGISTRY, WRAPPED, Family, ScoreName

# The confidence family's share of the false alarms where no left-out class could choose it (docs/SCORES.md).
DEFAULT_SHARE = 0.8
# The same around a wrapped classifier. Left-out classes can choose nothing there, since it was trained on them, and
# training it whole has cost its feature much of what finds far OOD (docs/WRAP.md).
WRAPPED_SHARE = 0.5
# The AUROC, in percent, that a score must reach on left-out classes to join the fused score.
MIN_LEFT_OUT_AUROC = 55.0


class LeftOutCheck(Frozen):
    """What the scores are worth on classes left out of the user's own training photos; it chooses the fused score.

    Each fold leaves some classes out, trains heads on the frozen feature of the others, and tells the left-out
    classes' photos from held-out photos of the others. No image outside the training photos is used.
    """

    folds: int = Field(ge=1)
    images: int = Field(ge=1, description="photos of left-out classes, over all folds")
    auroc: dict[ScoreName, float] = Field(description="in percent, mean of the folds")
    let_in: dict[ScoreName, float] = Field(
        description="percent of left-out photos accepted where 95 % of ID are, mean of the folds"
    )
    shares: dict[float, float] = Field(description="the same of the fused score, by the share of the confidence family")

    @property
    def failed(self) -> dict[ScoreName, float]:
        """The scores that do not tell left-out classes, and their AUROC: these never join the fused score."""
        return {name: value for name, value in self.auroc.items() if value < MIN_LEFT_OUT_AUROC}


class FusedFamily(Frozen):
    """One family's part of the fused score: the mean surprise of its `scores`, on a curve of its own."""

    family: Family
    share: float = Field(gt=0, le=1, description="of the false alarms that all families may raise together")
    scores: tuple[ScoreName, ...] = Field(min_length=1)
    curve: QuantileCurve = Field(description="of the mean surprise")

    @classmethod
    def fit(
        cls,
        family: Family,
        curves: Mapping[ScoreName, QuantileCurve],
        scores: Mapping[ScoreName, Scores],
        *,
        members: tuple[ScoreName, ...],
        share: float,
    ) -> FusedFamily:
        """Calibrate the mean surprise of `members` on the held-out ID `scores`, `{name: [n]}`."""
        curve = QuantileCurve.fit(_mean_surprise(members, curves, scores))
        return cls(family=family, share=share, scores=members, curve=curve)

    def surprise(self, curves: Mapping[ScoreName, QuantileCurve], scores: Mapping[ScoreName, Scores]) -> Scores:
        """The family's surprise U `[B]` in nats: exponential with mean 1 on ID data, whatever joined."""
        return self.curve.surprise(_mean_surprise(self.scores, curves, scores))


class Fusion(Frozen):
    """The fused score F (higher = more OOD): the surprise of a weighted harmonic mean of p-values.

    With u_s the surprise of score s on ID data (`QuantileCurve.surprise`, in nats), each family f averages its
    scores and is ranked again on its own curve, so that U_f is exponential on ID data; then

        m_f = mean of u_s over the scores s of f,  U_f = surprise of m_f,  F = log sum_f share_f exp(U_f).

    Since exp(-U_f) is the family's p-value, F is -log of their harmonic mean with weights share_f (Wilson 2019): a
    soft maximum. Of the images that a threshold flags, about the share of f is due to f: near OOD (unseen classes
    of the same kind) is found by confidence, far OOD by density, and neither can spend the other's false alarms. F's
    own curve makes the threshold exact for both together.

    No OOD data is needed: curves come from held-out ID images; which scores join and the shares come from classes
    left out of the training photos (`LeftOutCheck`), or from the registry where those are too few.
    """

    families: tuple[FusedFamily, ...] = Field(min_length=1)
    curve: QuantileCurve = Field(description="of F itself")
    check: LeftOutCheck | None = None

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if len({part.family for part in self.families}) != len(self.families):
            raise ValueError("a family may appear only once")
        if not math.isclose(sum(part.share for part in self.families), 1.0, abs_tol=1e-9):
            raise ValueError("the shares of the families must add up to 1")
        return self

    @classmethod
    def fit(
        cls,
        curves: Mapping[ScoreName, QuantileCurve],
        scores: Mapping[ScoreName, Scores],
        *,
        members: Iterable[ScoreName] | None = None,
        share: float | None = None,
        check: LeftOutCheck | None = None,
    ) -> Fusion:
        """Calibrate both families and F on the held-out ID `scores`, `{name: [n]}`.

        members: the scores that join; default: those of the registry that pass `check`. share: of the confidence
        family; default: what `check` chose, else the registry's. A family without a member leaves its share to the
        other. Raises `ValueError` when no score is left.
        """
        joined = tuple(chosen_members(curves, check) if members is None else members)
        if share is None:
            usual = WRAPPED_SHARE if _is_wrapped(curves) else DEFAULT_SHARE
            share = usual if check is None else chosen_share(check)
        given = {Family.CONFIDENCE: share, Family.DENSITY: 1.0 - share}
        by_family = {family: tuple(name for name in joined if REGISTRY[name].family is family) for family in Family}
        present = [family for family in Family if by_family[family] and given[family] > 0]
        if not present:
            raise ValueError("no score is left for the fused score")
        total = sum(given[family] for family in present)
        families = tuple(
            FusedFamily.fit(family, curves, scores, members=by_family[family], share=given[family] / total)
            for family in present
        )
        return cls(families=families, curve=QuantileCurve.fit(_join(families, curves, scores)), check=check)

    @classmethod
    def average(
        cls,
        curves: Mapping[ScoreName, QuantileCurve],
        scores: Mapping[ScoreName, Scores],
        members: Sequence[ScoreName],
    ) -> Fusion:
        """The plain mean surprise of `members`, whatever their families: what the shares are compared with."""
        family = FusedFamily.fit(Family.CONFIDENCE, curves, scores, members=tuple(members), share=1.0)
        return cls(families=(family,), curve=QuantileCurve.fit(_join((family,), curves, scores)))

    def share(self, family: Family) -> float:
        """The share of a family; 0 if none of its scores joined."""
        return next((part.share for part in self.families if part.family is family), 0.0)

    @property
    def scores(self) -> tuple[ScoreName, ...]:
        """The scores that join, family by family."""
        return tuple(name for part in self.families for name in part.scores)

    def weight(self, name: ScoreName) -> float:
        """A score's part of the false alarms, 0 to 1: its family's share over the scores of the family."""
        return sum(part.share / len(part.scores) for part in self.families if name in part.scores)

    def score(self, curves: Mapping[ScoreName, QuantileCurve], scores: Mapping[ScoreName, Scores]) -> Scores:
        """F `[B]` of scores `{name: [B]}`."""
        return _join(self.families, curves, scores)

    def by_family(
        self, curves: Mapping[ScoreName, QuantileCurve], scores: Mapping[ScoreName, Scores]
    ) -> dict[Family, Scores]:
        """Each family's term of F, `log share_f + U_f`, `[B]`: the larger one decides."""
        return {part.family: math.log(part.share) + part.surprise(curves, scores) for part in self.families}


def chosen_members(names: Iterable[ScoreName], check: LeftOutCheck | None) -> tuple[ScoreName, ...]:
    """The scores of `names` that the registry fuses, but for those that failed `check`.

    A density score joins whatever the check says: it is there for far OOD, which no left-out class is. Around a wrapped
    classifier neighbours stay out: training has drawn the photos of a class together, and unseen ones lie outside.
    """
    names = tuple(names)
    failed = {} if check is None else check.failed
    out = {ScoreName.KNN} if _is_wrapped(names) else set()
    return tuple(
        name
        for name in names
        if REGISTRY[name].fused and name not in out and (name not in failed or REGISTRY[name].family is Family.DENSITY)
    )


def _is_wrapped(names: Iterable[ScoreName]) -> bool:
    return any(spec.name in names for spec in WRAPPED)


def chosen_share(check: LeftOutCheck) -> float:
    """The largest share of confidence that is within one standard error of the best one on left-out classes.

    Left-out classes are near OOD. A smaller share is chosen where they show that density finds near OOD, too; far OOD,
    which is not among the training photos, is found with the fifth that density always keeps (docs/SCORES.md).
    """
    best = min(check.shares.values())
    p = min(max(best / 100.0, 0.01), 0.99)
    error = 100.0 * math.sqrt(p * (1.0 - p) / check.images)
    return max(share for share, let_in in check.shares.items() if let_in <= best + error)


def _mean_surprise(
    names: Sequence[ScoreName], curves: Mapping[ScoreName, QuantileCurve], scores: Mapping[ScoreName, Scores]
) -> Scores:
    return np.asarray(np.mean([curves[name].surprise(scores[name]) for name in names], axis=0), dtype=np.float64)


def _join(
    families: Sequence[FusedFamily],
    curves: Mapping[ScoreName, QuantileCurve],
    scores: Mapping[ScoreName, Scores],
) -> Scores:
    """The formula of `Fusion`, `[B]`."""
    terms = [math.log(part.share) + part.surprise(curves, scores) for part in families]
    return np.asarray(np.logaddexp.reduce(terms, axis=0), dtype=np.float64)

"""The fused score: one number from all calibrated scores. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from oodguard.core.curve import QuantileCurve, Scores
from oodguard.core.frozen import Frozen
from oodguard.core.scores import SCORES, Family, ScoreName

# Nats of surprise from which a family counts. The 94th ID percentile is at 2.8.
COUNTS_FROM: Mapping[Family, float] = {Family.CONFIDENCE: 0.0, Family.DENSITY: 2.8}


class Term(Frozen):
    """One score's part of the fused score: `weight * max(surprise - counts_from, 0)`."""

    score: ScoreName
    weight: float = Field(gt=0)
    counts_from: float = Field(ge=0, description="nats of surprise")


class Fusion(Frozen):
    """The fused score F (higher = more OOD), as a sum over scores s.

    With u_s the surprise of score s on ID data (`QuantileCurve.surprise`, in nats),

        F = sum_s w_s * max(u_s - t_s, 0)

    The registry gives the weight w_s of a score; its family gives t_s (`COUNTS_FROM`): confidence scores count from 0,
    density scores from 2.8 nats.

    Why this form. Near OOD (unseen classes of the same kind) is found by the heads: confidence and disagreement
    separate it, feature density is close to chance. Far OOD is the reverse: density separates it almost perfectly
    while heads are often sure of junk. A plain sum would drown the near signal in the density scores' noise; a
    maximum would pay for the false alarms of every detector. So the steadiest scores of the three trained heads are
    averaged (energy and entropy of the ensemble, AMP of the anchored head, ICE's distance: their errors differ), and
    Mahalanobis counts only where it leaves the ID range, where it then wins.

    PDS and 1 - BMA see the same ensemble as energy and entropy and trail them; the nearest-neighbour distance trails
    on unseen classes, and far away Mahalanobis says the same: what they would add to the average is their noise
    (docs/NEAR_OOD.md; `oodguard evaluate` prints the ablation).

    No OOD data is needed: the weights are constants; the surprises and the curve of F come from held-out ID images.
    """

    terms: tuple[Term, ...] = Field(min_length=1)
    curve: QuantileCurve = Field(description="of F itself")

    @classmethod
    def fit(
        cls,
        curves: Mapping[ScoreName, QuantileCurve],
        scores: Mapping[ScoreName, Scores],
        *,
        terms: Sequence[Term] | None = None,
    ) -> Fusion:
        """Calibrate F itself on the held-out ID `scores`, `{name: [n]}`; default: the registry's terms."""
        chosen = registered_terms(curves) if terms is None else tuple(terms)
        return cls(terms=chosen, curve=QuantileCurve.fit(fuse(chosen, curves, scores)))

    def score(self, curves: Mapping[ScoreName, QuantileCurve], scores: Mapping[ScoreName, Scores]) -> Scores:
        """F `[B]` of scores `{name: [B]}`."""
        return fuse(self.terms, curves, scores)


def registered_terms(curves: Mapping[ScoreName, QuantileCurve]) -> tuple[Term, ...]:
    """The terms that the registry gives the scores of `curves`."""
    return tuple(
        Term(score=spec.name, weight=spec.weight, counts_from=COUNTS_FROM[spec.family])
        for spec in SCORES
        if spec.weight and spec.name in curves
    )


def fuse(
    terms: Sequence[Term], curves: Mapping[ScoreName, QuantileCurve], scores: Mapping[ScoreName, Scores]
) -> Scores:
    """The formula of `Fusion`, `[B]`."""
    parts = [t.weight * np.maximum(curves[t.score].surprise(scores[t.score]) - t.counts_from, 0.0) for t in terms]
    return np.asarray(sum(parts), dtype=np.float64)

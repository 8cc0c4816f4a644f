"""The fused score with parts left out: what each part is worth on each OOD set."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from oodguard.core.calibration import Calibration
from oodguard.core.curve import Scores
from oodguard.core.fusion import Fusion, Term
from oodguard.core.scores import SCORES, Family, ScoreName
from oodguard.training.metrics import Change, Interval, Share, auroc_change, detection, share

WHOLE = "fused"


class Ablated(BaseModel):
    """One variant of the fused score on one OOD set.

    `auroc_change` is against the whole fused score, on the same images. The variant's own threshold comes from the
    calibration images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    auroc: float
    auroc_interval: Interval
    auroc_change: Change
    ood_accepted_at_95_id: float
    ood_accepted_interval: Interval
    id_accepted: Share
    ood_flagged: Share


def variants(calibration: Calibration) -> dict[str, tuple[Term, ...]]:
    """The terms of the whole fused score and of every ablation of it, by name.

    Every term is left out alone, then each family, then all scores are averaged. The other terms stay as they are. A
    variant without any term is not one.
    """
    terms = calibration.fusion.terms
    density = {spec.name for spec in SCORES if spec.family is Family.DENSITY}
    averaged = [spec.name for spec in SCORES if spec.name in calibration.curves]
    found = {WHOLE: terms}
    for left_out in terms:
        found[f"without {left_out.score}"] = tuple(term for term in terms if term != left_out)
    found["without density"] = tuple(term for term in terms if term.score not in density)
    found["without confidence"] = tuple(term for term in terms if term.score in density)
    found["mean of all scores"] = tuple(Term(score=name, weight=1 / len(averaged), counts_from=0) for name in averaged)
    return {name: terms for name, terms in found.items() if terms}


def ablate(
    calibration: Calibration,
    *,
    test: Mapping[ScoreName, Scores],
    ood: Mapping[ScoreName, Scores],
    calibration_scores: Mapping[ScoreName, Scores],
    accept: float,
) -> dict[str, Ablated]:
    """Every variant on test scores `{name: [N]}` and OOD scores `{name: [O]}`, each with a threshold of its own."""
    curves = calibration.curves
    whole = calibration.score(test), calibration.score(ood)
    found = {}
    for name, terms in variants(calibration).items():
        fusion = Fusion.fit(curves, calibration_scores, terms=terms)
        pair = fusion.score(curves, test), fusion.score(curves, ood)
        threshold = fusion.curve.threshold(accept)
        measured = detection(*pair, threshold)
        found[name] = Ablated(
            auroc=measured.auroc,
            auroc_interval=measured.auroc_interval,
            auroc_change=auroc_change(whole, pair),
            ood_accepted_at_95_id=measured.ood_accepted_at_95_id,
            ood_accepted_interval=measured.ood_accepted_interval,
            id_accepted=share(pair[0] <= threshold),
            ood_flagged=share(pair[1] > threshold),
        )
    return found

"""The fused score with parts left out: what each part is worth on each OOD set."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from oodguard.core.calibration import Calibration
from oodguard.core.curve import Scores
from oodguard.core.fusion import Fusion
from oodguard.core.scores import CERTIFIED, REGISTRY, Family, ScoreName
from oodguard.training.metrics import Change, Interval, Share, auroc_change, detection, share

WHOLE = "fused"
# Shares of the confidence family, beyond those that training may choose: the price of near OOD in far OOD.
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)


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


def variants(calibration: Calibration, scores: Mapping[ScoreName, Scores]) -> dict[str, Fusion]:
    """The whole fused score and every ablation of it, by name, calibrated on the held-out ID `scores` `{name: [n]}`.

    Every member is left out alone, then each family; then other shares are tried, and all scores averaged. Where scores
    are left out, shares stay as they are; a family without a member leaves its share to the other. A variant without
    any member is not one.
    """
    fusion, curves = calibration.fusion, calibration.curves
    share = fusion.share(Family.CONFIDENCE)
    members = {WHOLE: fusion.scores}
    members |= {f"without {left_out}": tuple(n for n in fusion.scores if n != left_out) for left_out in fusion.scores}
    for family in Family:
        members[f"without {family}"] = tuple(n for n in fusion.scores if REGISTRY[n].family is not family)
    found = {
        name: Fusion.fit(curves, scores, members=kept, share=share)
        for name, kept in members.items()
        if kept and (name == WHOLE or set(kept) != set(fusion.scores))
    }
    if len(fusion.families) > 1:
        found |= {
            f"confidence share {tried:g}": Fusion.fit(curves, scores, members=fusion.scores, share=tried)
            for tried in SHARES
        }
    found["mean of all scores"] = Fusion.average(curves, scores, [n for n in curves if n is not CERTIFIED.name])
    return found


def ablate(
    calibration: Calibration,
    *,
    test: Mapping[ScoreName, Scores],
    ood: Mapping[ScoreName, Scores],
    calibration_scores: Mapping[ScoreName, Scores],
    accept: float,
) -> dict[str, Ablated]:
    """Every variant on test scores `{name: [N]}` and OOD scores `{name: [O]}`, each with a threshold of its own.

    None of them is offset by class, which would need an offset fitted anew for each.
    """
    curves, fusion = calibration.curves, calibration.fusion
    whole = fusion.score(curves, test), fusion.score(curves, ood)
    found = {}
    for name, variant in variants(calibration, calibration_scores).items():
        pair = variant.score(curves, test), variant.score(curves, ood)
        threshold = variant.curve.threshold(accept)
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

"""The fused score with parts left out: what each part is worth on each OOD set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from oodguard.core.calibration import Fusion, QuantileCurve, Scores, fuse
from oodguard.core.scores import SCORES, Family
from oodguard.training.metrics import Change, Interval, Share, auroc_change, detection, share

WHOLE = "fused"

Weights = tuple[Mapping[str, float], Mapping[str, float]]


class Ablated(BaseModel):
    """One variant of the fused score on one OOD set.

    `auroc_change` is against the whole fused score, on the same images. The variant's own threshold comes from the
    calibration images; the last two are None where those could not be found again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    auroc: float
    auroc_interval: Interval
    auroc_change: Change
    ood_accepted_at_95_id: float
    ood_accepted_interval: Interval
    id_accepted: Share | None
    ood_flagged: Share | None


def variants(fusion: Fusion) -> dict[str, Weights]:
    """(near, far) weights of the whole fused score and of every ablation of it, by name.

    Every component is left out alone, then each family, then all scores are averaged. The other weights stay as they
    are: what is left out has weight 0. A variant without any component is not one.
    """
    near, far = fusion.near, fusion.far
    density = {spec.name.value for spec in SCORES if spec.family is Family.DENSITY}
    found: dict[str, Weights] = {WHOLE: (near, far)}
    for name in (*near, *(name for name in far if name not in near)):
        found[f"without {name}"] = _without(fusion, {name})
    found["without density"] = _without(fusion, density)
    found["without confidence"] = _without(fusion, (set(near) | set(far)) - density)
    found["mean of all scores"] = ({spec.name.value: 1 / len(SCORES) for spec in SCORES}, {})
    return {name: weights for name, weights in found.items() if weights[0] or weights[1]}


def ablate(
    fusion: Fusion,
    curves: Mapping[str, QuantileCurve],
    *,
    inside: Mapping[str, Scores],
    outside: Mapping[str, Scores],
    calibration: Mapping[str, Scores] | None,
    accept: float,
) -> dict[str, Ablated]:
    """Every variant on ID scores `{name: [N]}` and OOD scores `{name: [O]}`; thresholds from `calibration` alone."""
    whole = fusion.score(curves, inside), fusion.score(curves, outside)
    found = {}
    for name, (near, far) in variants(fusion).items():

        def score(
            values: Mapping[str, Scores], near: Mapping[str, float] = near, far: Mapping[str, float] = far
        ) -> Scores:
            return fuse(curves, values, near=near, far=far, far_from=fusion.far_from)

        pair = score(inside), score(outside)
        threshold = None if calibration is None else QuantileCurve.fit(score(calibration)).threshold(accept)
        measured = detection(*pair, np.inf if threshold is None else threshold)
        found[name] = Ablated(
            auroc=measured.auroc,
            auroc_interval=measured.auroc_interval,
            auroc_change=auroc_change(whole, pair),
            ood_accepted_at_95_id=measured.ood_accepted_at_95_id,
            ood_accepted_interval=measured.ood_accepted_interval,
            id_accepted=None if threshold is None else share(pair[0] <= threshold),
            ood_flagged=None if threshold is None else share(pair[1] > threshold),
        )
    return found


def _without(fusion: Fusion, names: set[str]) -> Weights:
    return (
        {name: weight for name, weight in fusion.near.items() if name not in names},
        {name: weight for name, weight in fusion.far.items() if name not in names},
    )

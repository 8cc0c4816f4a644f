"""How far rounding alone moves what a guard says: the only reason for which a graph may differ from PyTorch.

Two runtimes add the same products in another order. The feature of a network with float32 weights then differs by some
1e-7 to 1e-5 of its length, whichever runtime is asked, and a score s that is steep there differs by more: Mahalanobis
distance divides by the covariance of features, whose smallest directions may be 1e-5 of the largest, and a nearest
distance next to 0 is the root of a difference of nearly equal numbers. So the gate allows of a score

    allowed(s) = max(TOLERANCE, MARGIN max_j |s(f + FEATURE_ERROR ||f|| r_j) - s(f)| / range),

over the golden images' features f and directions r_j of length 1, all in float32 as it is served: what the score makes
of features as near as another runtime's. The directions are those in which a score is steepest, since the rounding
errors of a network are of a kind and may lie that way, and some random ones. A graph of another network is beyond that
by as much as its features are beyond MARGIN x FEATURE_ERROR, so the gate is as strict with a steep score as with a flat
one. A guard of which rounding moves a score by more than MOST (without the margin) is not exported, whichever numbers
come out: its digits are lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from oodguard.core.errors import QualityError
from oodguard.core.manifest import Parity
from oodguard.core.scores import ScoreName
from oodguard.training.run import Run

# Of a score, or of its range on ID photos (`Calibration.score_errors`).
TOLERANCE = 1e-4
MOST = 1e-2
# Of a feature's length. PyTorch and ONNX Runtime were up to 1e-6 apart, and each from float64; a network with another
# epsilon, activation or padding is 1e-4 and more from itself.
FEATURE_ERROR = 1e-6
MARGIN = 4.0
DRAWS = 8


@dataclass(frozen=True)
class Allowed:
    """What the gate allows: of scores of which it is more than `TOLERANCE`, of probabilities and of distances."""

    scores: Mapping[ScoreName, float] = field(default_factory=dict)
    probabilities: float = TOLERANCE
    distances: float = TOLERANCE


# Of numbers that rounding does not move.
STRICT = Allowed()


@torch.no_grad()
def allowed_by_rounding(run: Run, images: npt.NDArray[np.uint8]) -> Allowed:
    """What rounding may change in what a guard says of uint8 images `[B, H, W, 3]`.

    Raises `QualityError` where it moves a score or a probability by more than `MOST`.
    """
    rows = run.rows(images)
    feature = run.heads.rows.feature(rows)

    def said(found: torch.Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        logits, scores = run.heads(found)
        return run.heads.probabilities(found, logits).numpy(), scores.numpy()

    probable, expected = said(rows)
    near = run.distances_of(rows)
    calibration = run.record.calibration
    errors = np.zeros(expected.shape[1])
    probabilities = distances = 0.0
    for direction in _directions(run, rows):
        moved = rows.clone()
        run.heads.rows.feature(moved).add_(FEATURE_ERROR * feature.norm(dim=1, keepdim=True) * direction)
        nearly, scores = said(moved)
        errors = np.maximum(errors, calibration.score_errors(expected, scores).max(0))
        probabilities = max(probabilities, float(np.abs(nearly - probable).max()))
        distances = max(distances, float(np.abs(run.distances_of(moved) - near).max()))
    shares = dict(zip(calibration.names, (MARGIN * errors).tolist(), strict=True))
    for what, moved_by in (*zip(shares, errors.tolist(), strict=True), ("probability", probabilities)):
        if not moved_by <= MOST:
            raise QualityError(
                f"rounding alone moves the guard's {what} by {moved_by:.1%} (at most {MOST:.0%}), as the backbone "
                "gives photos nearly the same feature; train it with other --weights, or with photos that differ more"
            )
    return Allowed(
        scores={name: share for name, share in shares.items() if share > TOLERANCE},
        probabilities=max(MARGIN * probabilities, TOLERANCE),
        distances=max(MARGIN * distances, TOLERANCE),
    )


def _directions(run: Run, rows: torch.Tensor) -> list[torch.Tensor]:
    """Directions `[B, D]` of length 1: up the slope of each score, and random ones."""
    with torch.enable_grad():
        given = rows.clone().requires_grad_(True)
        columns = run.heads(given)[1].sum(0)
        slopes = [torch.autograd.grad(column, given, retain_graph=True)[0] for column in columns]
    draw = torch.Generator().manual_seed(0)
    feature = run.heads.rows.feature
    found = [feature(slope).nan_to_num(0.0, 0.0, 0.0) for slope in slopes]
    found += [torch.randn(feature(rows).shape, generator=draw) for _ in range(DRAWS)]
    return [torch.nn.functional.normalize(one) for one in found]


def allowed_before(parity: Parity) -> Allowed:
    """What the gate allowed of a bundle by its record, for a bundle that is made of it."""
    return Allowed(scores=parity.score_tolerance, probabilities=max(TOLERANCE, parity.probability_tolerance))

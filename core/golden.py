"""Golden images: what every runtime must answer for them, and what the calibration makes of that."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from oodguard.core.calibration import Calibration
from oodguard.core.frozen import Frozen
from oodguard.core.targets import Targets
from oodguard.core.verdict import Outputs

# Double precision from the same numbers; machines differ in the last digits.
JUDGED = 1e-6


class Golden(Frozen):
    """An image and the answer the bundle must give for it.

    exact: a real image, for which scores must agree within the tolerance. Otherwise a picture of nothing, which must be
    flagged: runtimes agree less on such scores. ood_score, threshold: what the calibration makes of `scores`, and where
    it flags.
    """

    path: str
    label: str
    is_ood: bool
    probabilities: tuple[float, ...]
    scores: tuple[float, ...]
    exact: bool = True
    ood_score: float | None = None
    threshold: float | None = None


def _fused(calibration: Calibration, golden: Golden) -> float:
    """The fused score that a calibration makes of a golden image's expected output."""
    outputs = Outputs(
        probabilities=np.array([golden.probabilities], np.float32), scores=np.array([golden.scores], np.float32)
    )
    return float(calibration.fused(outputs)[0])


def judged(golden: Sequence[Golden], calibration: Calibration, targets: Targets) -> tuple[Golden, ...]:
    """Golden images with the fused score and the threshold of a calibration, and the flag that follows."""
    threshold = calibration.thresholds(targets.accept, confidence=targets.confidence).fused
    scores = [_fused(calibration, one) for one in golden]
    return tuple(
        one.model_copy(update={"ood_score": score, "threshold": threshold, "is_ood": score > threshold})
        for one, score in zip(golden, scores, strict=True)
    )


def require_judged(golden: Sequence[Golden], calibration: Calibration, targets: Targets) -> None:
    """Raise `ValueError` where calibration and targets no longer judge the golden images' scores as `judged` did."""
    threshold = calibration.thresholds(targets.accept, confidence=targets.confidence).fused
    for one in golden:
        if one.threshold is None or one.ood_score is None:
            continue
        fused = _fused(calibration, one)
        same = math.isclose(one.threshold, threshold, rel_tol=JUDGED) and math.isclose(
            one.ood_score, fused, rel_tol=JUDGED, abs_tol=JUDGED
        )
        if not same or (fused > threshold) != one.is_ood:
            raise ValueError(
                f"the calibration judges {one.path} by {fused:.4g} and {threshold:.4g}, and the export wrote "
                f"{one.ood_score:.4g} and {one.threshold:.4g}: one of them was changed"
            )

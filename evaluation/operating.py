"""Where a guard can be operated: what each target acceptance lets through."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from oodguard.core.binomial import promised_acceptance
from oodguard.evaluation.evidence import FUSED, Evidence
from oodguard.training.metrics import Interval, Share, share

TARGETS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)


class OperatingPoint(BaseModel):
    """The fused score at one target acceptance.

    `promised`: where the acceptance of so many ID test images lies with 95 % probability. `accuracy`: of the accepted
    test images; None when none is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    accept: float
    threshold: float
    promised: Interval
    id_accepted: Share
    accuracy: Share | None
    ood_accepted: dict[str, Share]


def operating_points(evidence: Evidence, accept: float) -> tuple[OperatingPoint, ...]:
    """The usual targets and `accept`, as far as the calibration can promise them."""
    curve = evidence.record.calibration.curve
    targets = sorted({*TARGETS, accept})
    return tuple(operating_point(evidence, target) for target in targets if target <= curve.max_accept)


def operating_point(evidence: Evidence, accept: float) -> OperatingPoint:
    """One target acceptance."""
    threshold = evidence.record.calibration.curve.threshold(accept)
    accepted = evidence.test.values[FUSED] <= threshold
    return OperatingPoint(
        accept=accept,
        threshold=threshold,
        promised=promised_acceptance(accept, evidence.record.calibration.independent, tested=len(evidence.test)),
        id_accepted=share(accepted),
        accuracy=share(evidence.right[accepted]) if accepted.any() else None,
        ood_accepted={name: share(found.values[FUSED] <= threshold) for name, found in evidence.ood.items()},
    )

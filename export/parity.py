"""The parity gate: the graph must answer as PyTorch does, or there is no bundle. It has no off switch.

A float32 graph must give the same numbers, but for rounding (`rounding.py`). A graph of lower precision cannot; it must
come to the same decisions as the float32 graph that it was made from, which passed the first gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oodguard.core.calibration import Calibration
from oodguard.core.curve import Scores
from oodguard.core.errors import QualityError
from oodguard.core.manifest import Parity, Precision
from oodguard.core.targets import DEFAULT_ACCEPT
from oodguard.core.verdict import Outputs
from oodguard.export.rounding import STRICT, TOLERANCE, Allowed
from oodguard.training.metrics import auroc


@dataclass(frozen=True)
class Allowance:
    """What a lower precision may change.

    `labels`, `flags`: least shares of images with an equal label and an equal flag. `auroc`: largest loss of AUROC.
    `tolerance`: how far runtimes may be from one another, in a score's range. int8 kernels round differently wherever
    a value lies between two steps: over thousands of photos ONNX Runtime's kernels, its float emulation and OpenVINO
    were up to 0.10 apart. For fp16 it is over twice the largest distance from float32, 0.013.
    """

    labels: float
    flags: float
    auroc: float
    tolerance: float


ALLOWED: Mapping[Precision, Allowance] = {
    "int8": Allowance(labels=0.94, flags=0.96, auroc=0.01, tolerance=0.15),
    "fp16": Allowance(labels=0.98, flags=0.98, auroc=0.005, tolerance=0.03),
}


def compare(calibration: Calibration, expected: Outputs, found: Outputs, *, allowed: Allowed = STRICT) -> Parity:
    """Compare ONNX Runtime (`found`) with PyTorch (`expected`) on the same images, measured and not yet judged.

    allowed: what rounding may change (`allowed_by_rounding`). A score that is its own threshold, as one calibration
    photo's always is, may fall on either side of it.
    """
    errors = calibration.score_errors(expected.scores, found.scores)
    thresholds = calibration.thresholds(DEFAULT_ACCEPT)
    limits = np.array([threshold for _, threshold in thresholds.scores])
    return Parity(
        images=len(expected.scores),
        tolerance=TOLERANCE,
        score_tolerance=dict(allowed.scores),
        probability_tolerance=allowed.probabilities if allowed.probabilities > TOLERANCE else 0.0,
        max_probability_error=float(np.abs(expected.probabilities - found.probabilities).max()),
        max_score_error={name: float(errors[:, i].max()) for i, name in enumerate(calibration.names)},
        labels_identical=bool((expected.probabilities.argmax(1) == found.probabilities.argmax(1)).all()),
        verdicts_identical=bool(
            (calibration.flagged(expected) == calibration.flagged(found)).all()
            and (
                ((expected.scores > limits) == (found.scores > limits))
                | (
                    calibration.score_errors(np.broadcast_to(limits, expected.scores.shape), expected.scores)
                    <= _of_scores(calibration, allowed)
                )
            ).all()
        ),
    )


def _of_scores(calibration: Calibration, allowed: Allowed) -> npt.NDArray[np.float64]:
    """How far runtimes may be from one another, `[S]`."""
    return np.array([allowed.scores.get(name, TOLERANCE) for name in calibration.names])


def undecided(
    calibration: Calibration, expected: Outputs, found: Outputs, *, allowed: Allowed = STRICT
) -> npt.NDArray[np.bool_]:
    """Which images lie on the edge of a decision, `[B]`: equal numbers, and another flag or label."""
    errors = calibration.score_errors(expected.scores, found.scores)
    equal = (errors <= _of_scores(calibration, allowed)).all(1)
    equal &= np.abs(expected.probabilities - found.probabilities).max(1) <= allowed.probabilities
    labels = expected.probabilities.argmax(1) != found.probabilities.argmax(1)
    return np.asarray(((calibration.flagged(expected) != calibration.flagged(found)) | labels) & equal)


def require(parity: Parity) -> None:
    """Raise `QualityError` naming the first thing that differs."""
    if not parity.max_probability_error <= (allowed := max(parity.tolerance, parity.probability_tolerance)):
        raise QualityError(
            f"the graph's probabilities differ from PyTorch's by {parity.max_probability_error:.2e} "
            f"(allowed {allowed:g}); nothing was exported"
        )
    for name, error in parity.max_score_error.items():
        if not error <= (allowed := parity.allowed(name)):
            raise QualityError(
                f"the graph's {name} differs from PyTorch's by {error:.2e} relative (allowed {allowed:g}); "
                "nothing was exported"
            )
    if not (parity.labels_identical and parity.verdicts_identical):
        raise QualityError("the graph's labels or verdicts differ from PyTorch's; nothing was exported")


def require_distances(expected: npt.NDArray[np.float32], found: Outputs, *, allowed: float = TOLERANCE) -> None:
    """Raise `QualityError` unless the graph's neighbours are as far as PyTorch's, `[B, K]`; ties may differ in rows."""
    error = float(np.abs(expected - found.distances).max()) if found.distances is not None else np.inf
    if not error <= allowed:
        raise QualityError(
            f"the graph's nearest photos are {error:.2e} nearer or farther than PyTorch's (allowed {allowed:g}); "
            "nothing was exported"
        )


@dataclass(frozen=True)
class Judged:
    """One graph's calibration and its answers: for ID images, and for each OOD set."""

    calibration: Calibration
    outputs: Outputs
    ood_sets: Mapping[str, Outputs]

    @property
    def aurocs(self) -> dict[str, float]:
        """The fused score's AUROC on each OOD set."""
        fused = self._fused(self.outputs)
        return {name: auroc(fused, self._fused(found)) for name, found in self.ood_sets.items()}

    def _fused(self, outputs: Outputs) -> Scores:
        return self.calibration.fused(outputs)


def compare_decisions(reference: Judged, reduced: Judged, precision: Precision) -> Parity:
    """Compare a lower precision's decisions with the float32 graph's, on the same images."""
    expected, found = reference.outputs, reduced.outputs
    labels = expected.probabilities.argmax(1) == found.probabilities.argmax(1)
    flags = reference.calibration.flagged(expected) == reduced.calibration.flagged(found)
    errors = reference.calibration.score_errors(expected.scores, found.scores)
    before, after = reference.aurocs, reduced.aurocs
    return Parity(
        images=len(labels),
        tolerance=ALLOWED[precision].tolerance,
        max_probability_error=float(np.abs(expected.probabilities - found.probabilities).max()),
        max_score_error={name: float(errors[:, i].max()) for i, name in enumerate(reference.calibration.names)},
        labels_identical=bool(labels.all()),
        verdicts_identical=bool(flags.all()),
        precision=precision,
        label_agreement=float(labels.mean()),
        flag_agreement=float(flags.mean()),
        auroc_change={name: after[name] - before[name] for name in before},
    )


def require_decisions(parity: Parity) -> None:
    """Raise `QualityError` naming the first decision that lower precision changed too often."""
    allowed = ALLOWED[parity.precision]
    for what, share, least in (
        ("labels", parity.label_agreement, allowed.labels),
        ("OOD flags", parity.flag_agreement, allowed.flags),
    ):
        if share < least:
            raise QualityError(
                f"the {parity.precision} graph changes {1 - share:.1%} of the {what} on {parity.images} calibration "
                f"images (allowed {1 - least:.1%}); nothing was exported"
            )
    for name, change in parity.auroc_change.items():
        if change < -allowed.auroc:
            raise QualityError(
                f"the {parity.precision} graph loses {-change:.3f} AUROC on {name} (allowed {allowed.auroc:g}); "
                "nothing was exported"
            )

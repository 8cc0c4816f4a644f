"""The parity gate: the graph must answer as PyTorch does, or there is no bundle. It has no off switch.

A float32 graph must give the same numbers. A graph of lower precision cannot; it must come to the same decisions as the
float32 graph that it was made from, which passed the first gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from oodguard.core.errors import QualityError
from oodguard.core.manifest import Manifest, Outputs, Parity, Precision
from oodguard.training.metrics import detection

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Limits:
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


LIMITS: Mapping[Precision, Limits] = {
    "int8": Limits(labels=0.94, flags=0.96, auroc=0.01, tolerance=0.15),
    "fp16": Limits(labels=0.98, flags=0.98, auroc=0.005, tolerance=0.03),
}


def compare(manifest: Manifest, expected: Outputs, found: Outputs) -> Parity:
    """Compare ONNX Runtime (`found`) with PyTorch (`expected`) on the same images, measured and not yet judged."""
    errors = manifest.score_errors(expected.scores, found.scores)
    ours, theirs = manifest.judge(expected), manifest.judge(found)
    return Parity(
        images=len(expected.scores),
        tolerance=TOLERANCE,
        max_probability_error=float(np.abs(expected.probabilities - found.probabilities).max()),
        max_score_error={name: float(errors[:, i].max()) for i, name in enumerate(manifest.score_names)},
        labels_identical=all(a.label == b.label for a, b in zip(ours, theirs, strict=True)),
        verdicts_identical=all(
            a.is_ood == b.is_ood and all(a.scores[n].is_ood == b.scores[n].is_ood for n in a.scores)
            for a, b in zip(ours, theirs, strict=True)
        ),
    )


def require(parity: Parity) -> None:
    """Raise `QualityError` naming the first thing that differs."""
    if parity.max_probability_error > parity.tolerance:
        raise QualityError(
            f"the graph's probabilities differ from PyTorch's by {parity.max_probability_error:.2e} "
            f"(allowed {parity.tolerance:g}); nothing was exported"
        )
    for name, error in parity.max_score_error.items():
        if error > parity.tolerance:
            raise QualityError(
                f"the graph's {name} differs from PyTorch's by {error:.2e} relative (allowed {parity.tolerance:g}); "
                "nothing was exported"
            )
    if not (parity.labels_identical and parity.verdicts_identical):
        raise QualityError("the graph's labels or verdicts differ from PyTorch's; nothing was exported")


def compare_decisions(
    reference: Manifest,
    draft: Manifest,
    expected: Outputs,
    found: Outputs,
    strangers: Mapping[str, tuple[Outputs, Outputs]],
) -> Parity:
    """Compare a lower precision's decisions (`draft`, `found`) with the float32 graph's (`reference`, `expected`).

    Outputs are for the same ID images; `strangers` holds (expected, found) for each OOD set. Nothing is judged yet.
    """
    precision = draft.precision
    labels = expected.probabilities.argmax(1) == found.probabilities.argmax(1)
    flags = flagged(reference, expected) == flagged(draft, found)
    errors = reference.score_errors(expected.scores, found.scores)
    return Parity(
        images=len(labels),
        tolerance=LIMITS[precision].tolerance,
        max_probability_error=float(np.abs(expected.probabilities - found.probabilities).max()),
        max_score_error={name: float(errors[:, i].max()) for i, name in enumerate(reference.score_names)},
        labels_identical=bool(labels.all()),
        verdicts_identical=bool(flags.all()),
        precision=precision,
        label_agreement=float(labels.mean()),
        flag_agreement=float(flags.mean()),
        auroc_change={
            name: _auroc(draft, found, theirs) - _auroc(reference, expected, ours)
            for name, (ours, theirs) in strangers.items()
        },
    )


def flagged(manifest: Manifest, outputs: Outputs) -> np.ndarray:
    """Whether each image is flagged at the manifest's default acceptance, `[B]`."""
    return np.asarray(manifest.fused(outputs.scores) > manifest.fusion.curve.threshold(manifest.default_accept))


def _auroc(manifest: Manifest, inside: Outputs, outside: Outputs) -> float:
    threshold = manifest.fusion.curve.threshold(manifest.default_accept)
    return detection(manifest.fused(inside.scores), manifest.fused(outside.scores), threshold).auroc


def require_decisions(parity: Parity) -> None:
    """Raise `QualityError` naming the first decision that lower precision changed too often."""
    limits = LIMITS[parity.precision]
    for what, share, least in (
        ("labels", parity.label_agreement, limits.labels),
        ("OOD flags", parity.flag_agreement, limits.flags),
    ):
        if share < least:
            raise QualityError(
                f"the {parity.precision} graph changes {1 - share:.1%} of the {what} on {parity.images} calibration "
                f"images (allowed {1 - least:.1%}); nothing was exported"
            )
    for name, change in parity.auroc_change.items():
        if change < -limits.auroc:
            raise QualityError(
                f"the {parity.precision} graph loses {-change:.3f} AUROC on {name} (allowed {limits.auroc:g}); "
                "nothing was exported"
            )

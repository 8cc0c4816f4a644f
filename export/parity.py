"""The parity gate: the graph must answer as PyTorch does, or there is no bundle. It has no off switch."""

from __future__ import annotations

import numpy as np

from oodguard.export.contract import Manifest, Outputs, Parity
from oodguard.training.errors import QualityError

TOLERANCE = 1e-4


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

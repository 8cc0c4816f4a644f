"""The gate of a wrapped classifier: its probabilities leave the fused graph as they were, or there is no bundle.

Bit for bit, and at batch 1 and 8, since kernels add up in another order for another number of rows. Appended nodes can
change bits: a runtime fuses operators only where nobody else reads what is between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from oodguard.core.calibration import Calibration
from oodguard.core.classifier import CLASSIFIER_FILE, FEATURE_NAME, LOGITS_NAME
from oodguard.core.errors import QualityError
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME
from oodguard.core.preprocessing import Pixels
from oodguard.core.scores import ScoreName
from oodguard.core.verdict import Floats
from oodguard.export.graph import run_graph, session
from oodguard.export.merge import merge
from oodguard.export.rounding import TOLERANCE
from oodguard.training.heads.guard import GuardHeads

BATCH = 8
# What is to stay an output, in the order of the trials: naming a tensor keeps a runtime from fusing what is around it.
TRIALS = ((), (FEATURE_NAME,), (LOGITS_NAME,), (FEATURE_NAME, LOGITS_NAME))
DISTANCES = (ScoreName.KNN, ScoreName.MAHALANOBIS)


class ChangedProbabilities(QualityError):
    """The fused graph gives other probabilities than the classifier by itself."""


@dataclass(frozen=True)
class Own:
    """A wrapped classifier by itself: its graph, the heads that were trained on it, and how scores are compared."""

    graph: bytes
    heads: GuardHeads
    calibration: Calibration

    def answers(self, running: ort.InferenceSession, images: Pixels) -> tuple[Floats, Floats]:
        """Probabilities `[B, C]` as the classifier gives them, and scores `[B, S]` that PyTorch makes of the rest."""
        names = [PROBABILITIES_NAME, FEATURE_NAME, LOGITS_NAME]
        probabilities, feature, logits = running.run(names, {INPUT_NAME: images})
        rows = torch.from_numpy(np.concatenate([feature, logits, probabilities], axis=1))
        with torch.no_grad():
            _, scores = self.heads(rows)
        return probabilities, scores.numpy()


def joined(
    own: Own,
    heads: bytes,
    batches: Callable[[], Iterable[Pixels]],
    *,
    metadata: Mapping[str, str],
    exact: bool = True,
) -> tuple[bytes, int]:
    """The fused graph that changes no probability of the images in `batches`, and how many images these are.

    batches: gives uint8 `[B, H, W, 3]` of at most `BATCH`, anew each time. exact: scores must be PyTorch's.

    Raises `QualityError` where no way of joining leaves them as they are, or where scores are not PyTorch's.
    """
    fault: QualityError | None = None
    for keep in TRIALS:
        graph = merge(own.graph, heads, metadata=metadata, keep=keep)
        try:
            return graph, require_unchanged(own, graph, batches(), exact=exact)
        except ChangedProbabilities as error:
            fault = fault or error
    assert fault is not None
    raise fault


def require_unchanged(own: Own, graph: bytes, batches: Iterable[Pixels], *, exact: bool = True) -> int:
    """Compare on every image, in its batch and alone; the number of images.

    Raises `ChangedProbabilities` for another bit, and, where they must be `exact`, `QualityError` for scores that are
    farther than `TOLERANCE` from PyTorch's.
    """
    before, after = session(own.graph), session(graph)
    count = 0
    for images in batches:
        expected, scores = own.answers(before, images)
        found = run_graph(after, images)
        _require_bits(expected, found.probabilities)
        if exact:
            _require_scores(own.calibration, scores, found.scores)
        for place in range(len(images) if len(images) > 1 else 0):
            alone = images[place : place + 1]
            (wanted,) = before.run([PROBABILITIES_NAME], {INPUT_NAME: alone})
            _require_bits(wanted, run_graph(after, alone).probabilities)
        count += len(images)
    return count


def _require_bits(expected: Floats, found: Floats) -> None:
    if found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes():
        return
    apart = float(np.abs(found.astype(np.float64) - expected).max()) if found.shape == expected.shape else np.inf
    raise ChangedProbabilities(
        f"with the heads appended, {PROBABILITIES_NAME} differs from that of {CLASSIFIER_FILE} by up to {apart:.1e} at "
        f"a batch of {len(expected)}; nothing was exported: wrap it with another --feature or --logits"
    )


def _require_scores(calibration: Calibration, expected: Floats, found: Floats) -> None:
    """A distance next to 0 is the root of a difference of nearly equal numbers: there its square is compared."""
    errors = np.minimum(
        calibration.score_errors(expected, found),
        _squared_errors(calibration, expected.astype(np.float64), found.astype(np.float64)),
    ).max(0)
    for name, error in zip(calibration.names, errors.tolist(), strict=True):
        if not error <= TOLERANCE:
            raise QualityError(
                f"the graph's {name} differs from PyTorch's by {error:.2e} relative (allowed {TOLERANCE:g}); "
                "nothing was exported"
            )


def _squared_errors(
    calibration: Calibration, expected: npt.NDArray[np.float64], found: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    is_distance = np.array([name in DISTANCES for name in calibration.names])
    top = np.array([max(abs(curve.values[0]), abs(curve.values[-1])) for curve in calibration.curves.values()])
    errors = np.abs(expected**2 - found**2) / np.maximum(top**2, 1e-24)
    return np.where(is_distance, errors, np.inf)

"""The gate of the standalone graph: the calibration's verdicts, or there is no bundle. It has no off switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from oodguard.core.calibration import Calibration
from oodguard.core.errors import QualityError
from oodguard.core.manifest import (
    ACCEPT_NAME,
    INPUT_NAME,
    PROBABILITIES_NAME,
    SCORES_NAME,
    STANDALONE_FILE,
    STANDALONE_OUTPUTS,
    Standalone,
    calibration_sha256,
)
from oodguard.core.verdict import Outputs
from oodguard.export.graph import run_graph, session
from oodguard.export.standalone import CEILING, verdict_graph

# Of a probability, and of the fused score relative to it or to 1.
TOLERANCE = 1e-3
# Of a raw score and of its spread on the calibration images: what float32 loses of it on the way to the fused score.
# Between two calibration images whose surprises are nearly the same the curve is steep, and makes much of little.
ROUNDING = 2e-6
ROWS = 4096


@dataclass(frozen=True)
class StandaloneOutputs:
    """What a standalone graph returns for B images, `[B]` each."""

    label: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]
    is_ood: npt.NDArray[np.float32]
    ood_score: npt.NDArray[np.float32]
    percentile: npt.NDArray[np.float32]

    @classmethod
    def run(cls, graph: bytes, feeds: Mapping[str, npt.ArrayLike], *, accept: float | None = None) -> Self:
        """What ONNX Runtime returns; `accept`: the graph's default."""
        given = {} if accept is None else {ACCEPT_NAME: np.array([accept], dtype=np.float32)}
        names = [spec.name for spec in STANDALONE_OUTPUTS]
        return cls(*session(graph).run(names, {**feeds, **given}))


def measure_standalone(
    graph: bytes, made: bytes, calibration: Calibration, *, accept: float, images: npt.NDArray[np.uint8]
) -> Standalone:
    """Compare the standalone graph `made` of `graph` with the calibration, on images and on rows of raw scores.

    Raises `QualityError` for an image with another label or flag, and for a row of scores with another flag whose
    fused score is not, by what float32 loses, on the threshold itself.
    """
    truth = run_graph(session(graph), images)
    found = StandaloneOutputs.run(made, {INPUT_NAME: images})
    errors = [_error(_nearby(calibration, truth), found)]
    _require_answers(calibration, truth, found)
    if (calibration.flagged(truth, accept=accept) != (found.is_ood == 1)).any():
        raise QualityError("the standalone graph gives a golden image another flag; nothing was exported")
    rows = rows_of(calibration, truth.probabilities.shape[1])
    verdict = verdict_graph(calibration, classes=truth.probabilities.shape[1], accept=accept)
    feeds = {PROBABILITIES_NAME: rows.probabilities, SCORES_NAME: rows.scores}
    fused, near = calibration.fused(rows), _nearby(calibration, rows)
    for level in (*(calibration.max_accept * np.linspace(0.125, 1.0, 8)).tolist(), accept):
        found = StandaloneOutputs.run(verdict, feeds, accept=level)
        limit = calibration.curve.threshold(level)
        margin = TOLERANCE * max(abs(limit), 1.0)
        clear = (near.low > limit + margin) | (near.high < limit - margin)
        if ((fused > limit) != (found.is_ood == 1))[clear].any():
            raise QualityError(f"the standalone graph flags otherwise at acceptance {level:.3f}; nothing was exported")
    _require_answers(calibration, rows, found)
    errors.append(_error(near, found))
    if max(errors) > TOLERANCE:
        raise QualityError(
            f"the standalone graph's fused score differs by {max(errors):.1e} (allowed {TOLERANCE:g}); nothing was "
            "exported"
        )
    return Standalone(
        graph=STANDALONE_FILE,
        calibration_sha256=calibration_sha256(calibration),
        outputs=STANDALONE_OUTPUTS,
        rows=ROWS,
        max_score_error=max(errors),
    )


def rows_of(calibration: Calibration, classes: int) -> Outputs:
    """Raw outputs to compare on, always the same ones: scores between and far outside the values of the curves.

    None is made of calibration images' own scores: such a row may have exactly the mean surprise of an image, where the
    last digit decides between two ranks.
    """
    rng = np.random.default_rng(0)
    columns = []
    for curve in calibration.curves.values():
        values = np.asarray(curve.values)
        spread = max(values[-1] - values[0], 1e-6)
        between = np.quantile(values, rng.random(ROWS // 2))
        far = values[0] + spread * rng.choice([-1, 1], ROWS // 2) * 10.0 ** rng.uniform(-2, 6, ROWS // 2)
        columns.append(np.concatenate([between, far]))
    scores = np.stack(columns, axis=1).astype(np.float32)
    probabilities = rng.dirichlet(np.full(classes, 0.3), ROWS).astype(np.float32)
    # Ties, which the first class wins, and a class with nothing at all.
    probabilities[::8] = 1.0 / classes
    probabilities[1::8, 1:] = 0.0
    return Outputs(probabilities=probabilities, scores=scores)


def _require_answers(calibration: Calibration, outputs: Outputs, found: StandaloneOutputs) -> None:
    if (outputs.probabilities.argmax(1) != found.label).any():
        raise QualityError("the standalone graph gives another label than the graph; nothing was exported")
    worst = float(np.abs(calibration.chances(outputs.probabilities).max(1) - found.probability).max())
    if worst > TOLERANCE:
        raise QualityError(
            f"the standalone graph's probability differs by {worst:.1e} (allowed {TOLERANCE:g}); nothing was exported"
        )


class _Nearby(NamedTuple):
    """The least and the greatest fused score `[B]` of scores within `ROUNDING` of those that were given."""

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def _nearby(calibration: Calibration, outputs: Outputs) -> _Nearby:
    spreads = np.array([curve.values[-1] - curve.values[0] for curve in calibration.curves.values()])
    lost = ROUNDING * (np.abs(outputs.scores) + spreads)
    return _Nearby(
        *(
            calibration.fused(Outputs(probabilities=outputs.probabilities, scores=scores))
            for scores in (outputs.scores - lost, outputs.scores + lost)
        )
    )


def _error(near: _Nearby, found: StandaloneOutputs) -> float:
    """How far the fused scores are beyond those that rounding may give."""
    low, high = (np.minimum(scores, CEILING) for scores in near)
    beyond = np.maximum(np.maximum(low - found.ood_score, found.ood_score - high), 0.0)
    return float((beyond / np.maximum(np.abs(high), 1.0)).max())

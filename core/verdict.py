"""The answer for one image, and what it is made from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict

from oodguard.core.errors import ImageError, QualityError
from oodguard.core.explanation import Explanation
from oodguard.core.frozen import Frozen
from oodguard.core.quality import Quality
from oodguard.core.scores import ScoreName

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]

# Classes listed in a verdict where nobody names a number.
DEFAULT_TOP_K = 5


class Outputs(Frozen):
    """What the graph returns for B images: `probabilities [B, C]` and `scores [B, S]`, float32.

    `neighbours [B, K]` are rows of the bank, int32, and `distances [B, K]` how far they are, where they were asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    probabilities: Floats
    scores: Floats
    neighbours: Rows | None = None
    distances: Floats | None = None

    def require_rows(self, count: int) -> None:
        """Raise `QualityError` unless there is one row for each of `count` images."""
        for name in ("probabilities", "scores", "neighbours", "distances"):
            found = getattr(self, name)
            if found is not None and len(found) != count:
                raise QualityError(f"the graph returned {len(found)} rows of {name} for {count} images")

    def rows(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Outputs:
        """The same for some of the images."""
        neighbours, distances = self.neighbours, self.distances
        return Outputs(
            probabilities=self.probabilities[chosen],
            scores=self.scores[chosen],
            neighbours=None if neighbours is None else neighbours[chosen],
            distances=None if distances is None else distances[chosen],
        )


class ClassProbability(Frozen):
    """One class and its probability."""

    label: str
    class_index: int
    probability: float


class ScoreVerdict(Frozen):
    """One score against its calibrated threshold. `percentile`: share of ID images that score lower, 0 to 100."""

    value: float
    threshold: float
    percentile: float
    is_ood: bool


class Decision(StrEnum):
    """What to do with an image: use its label, look at it because no label is safe, or treat it as a stranger."""

    ANSWER = "answer"
    UNSURE = "unsure"
    STRANGER = "stranger"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on a batch of B images, before any threshold; lists, because they are read row by row.

    `neighbours` and `distances` are those of `Outputs`: few images are explained.
    """

    probabilities: list[list[float]]
    ranked: list[list[int]]
    scores: list[list[float]]
    percentiles: list[list[float]]
    fused: list[float]
    fused_percentiles: list[float]
    neighbours: Rows | None = None
    distances: Floats | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Every threshold at one set of targets; `scores` in graph order.

    least_chance: what a label's probability must reach to be an answer. label_cut: the largest nonconformity of a class
    in a label set. None: the calibration had no labels.
    """

    fused: float
    scores: tuple[tuple[ScoreName, float], ...]
    least_chance: float | None = None
    label_cut: float | None = None


class Verdict(Frozen):
    """The answer for one image. `is_ood` is `ood_score > threshold`; higher scores are more OOD everywhere.

    `probability`: the chance that `label` is right, where the image is in distribution. `labels`: the classes that hold
    the true one with the chance `coverage`, most likely first; none where the image is OOD, null where the calibration
    had no labels. `decision`: `answer`, `unsure` (in distribution, but no label is safe enough for `max_error`) or
    `stranger` (`is_ood`).

    `certified_radius`: how far the image's feature may move, in any direction, without another verdict of the certified
    score: |threshold - value| / Lipschitz constant (GReg, Eq. 4). Null for a model without a certified head.

    `explanation`: why the fused score is what it is, where that was asked for. `quality`: whether the picture itself is
    fit to be judged; it changes nothing else. Null where the calibration does not know the training photos' quality.
    """

    label: str
    class_index: int
    probability: float
    top_k: tuple[ClassProbability, ...]
    is_ood: bool
    ood_score: float
    threshold: float
    percentile: float
    scores: dict[ScoreName, ScoreVerdict]
    labels: tuple[str, ...] | None = None
    decision: Decision
    certified_radius: float | None = None
    explanation: Explanation | None = None
    quality: Quality | None = None


# What one image comes to.
Outcome = Verdict | ImageError

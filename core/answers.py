"""What `POST /predict` returns, the problem documents of every error (RFC 9457), and what is kept of flagged images."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field, field_validator

from oodguard.core.frozen import Frozen
from oodguard.core.problems import Problem
from oodguard.core.scores import ScoreName
from oodguard.core.verdict import ScoreVerdict, Verdict


class ModelRef(Frozen):
    """The model that answered."""

    name: str
    version: str


class Prediction(Verdict):
    """One image's verdict. `index` is its place in the request, `file` the name it was sent under, if any."""

    index: int
    file: str | None = None


class Timing(Frozen):
    """Milliseconds spent on this request, by stage; over many images, the slowest image's."""

    read: float
    decode: float
    queue: float
    inference: float
    judge: float
    total: float


class PredictResponse(Frozen):
    """The answer to `POST /predict`.

    `predictions` is in request order. An image that failed has no prediction; it is in `errors` with its index.
    """

    model: ModelRef
    accept: float
    predictions: tuple[Prediction, ...]
    errors: tuple[Problem, ...] = ()
    timing_ms: Timing


class PredictRequest(Frozen):
    """The JSON body of `POST /predict`: images as base64 or `data:` URI strings."""

    images: Annotated[tuple[str, ...], Field(min_length=1)]


class FlaggedSample(Frozen):
    """The sidecar of a sampled flagged image: `NAME.json` beside the image `NAME` with any image suffix.

    What the guard said of it, as in `Prediction`, by which model and at which target acceptance, and when (with a time
    zone). `oodguard review` reads folders of such pairs; nothing in them is taken on trust.

    ```python
    sample = FlaggedSample.of(prediction, model=ref, accept=0.95, time=datetime.now(UTC))
    path.with_suffix(".json").write_text(sample.model_dump_json(), encoding="utf-8")
    ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    time: AwareDatetime
    model: ModelRef
    accept: float = Field(gt=0, lt=1)
    label: str
    probability: float = Field(ge=0, le=1)
    ood_score: float
    threshold: float
    percentile: float = Field(ge=0, le=100, description="share of ID images with a lower fused score, in percent")
    scores: dict[ScoreName, ScoreVerdict]

    @field_validator("scores")
    @classmethod
    def _finite(cls, scores: dict[ScoreName, ScoreVerdict]) -> dict[ScoreName, ScoreVerdict]:
        for name, score in scores.items():
            if not all(map(math.isfinite, (score.value, score.threshold, score.percentile))):
                raise ValueError(f"{name} is not finite")
        return scores

    @classmethod
    def of(cls, verdict: Verdict, *, model: ModelRef, accept: float, time: datetime) -> FlaggedSample:
        """What is kept of one verdict."""
        return cls(
            time=time,
            model=model,
            accept=accept,
            label=verdict.label,
            probability=verdict.probability,
            ood_score=verdict.ood_score,
            threshold=verdict.threshold,
            percentile=verdict.percentile,
            scores=verdict.scores,
        )

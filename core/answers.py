"""What `POST /predict` returns, the problem documents of every error (RFC 9457), and what is kept of flagged images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field, field_validator

from oodguard.core.errors import ImageError
from oodguard.core.explanation import Explanation
from oodguard.core.frozen import Frozen
from oodguard.core.images import ImageLike, name_of
from oodguard.core.problems import Problem, problem, problem_of
from oodguard.core.quality import Quality
from oodguard.core.scores import ScoreName
from oodguard.core.targets import Targets
from oodguard.core.verdict import Outcome, ScoreVerdict, Verdict


class ModelRef(Frozen):
    """The model that answered."""

    name: str
    version: str


class Prediction(Verdict):
    """One image's verdict. `index` is its place in the request, `file` the name it was sent under, if any."""

    index: int
    file: str | None = None

    @classmethod
    def of(cls, verdict: Verdict, *, index: int = 0, file: str | None = None) -> Prediction:
        """The prediction of a verdict, without validating it again."""
        return cls.model_construct(index=index, file=file, **dict(verdict))


class Timing(Frozen):
    """Milliseconds spent on this request, by stage; over many images, the slowest image's."""

    read: float
    decode: float
    queue: float
    inference: float
    judge: float
    total: float

    @classmethod
    def of(cls, **seconds: float) -> Timing:
        """The timing of a request that spent so many seconds in each stage."""
        return cls(**{stage: round(1e3 * spent, 3) for stage, spent in seconds.items()})


class PredictResponse(Frozen):
    """The answer to `POST /predict`.

    `accept`, `confidence`, `coverage` and `max_error` are the targets that the images were judged by (see `Targets`);
    `source` says whose calibration judged, where the request named one. `predictions` is in request order. An image
    that failed has no prediction; it is in `errors` with its index.
    """

    model: ModelRef
    accept: float
    confidence: float | None = None
    coverage: float
    max_error: float
    source: str | None = None
    predictions: tuple[Prediction, ...]
    errors: tuple[Problem, ...] = ()
    timing_ms: Timing

    @classmethod
    def of(
        cls,
        outcomes: Iterable[Outcome],
        files: Iterable[str | None],
        *,
        model: ModelRef,
        targets: Targets,
        timing: Timing,
        source: str | None = None,
    ) -> PredictResponse:
        """The answer for images with these outcomes and file names, in request order.

        Nothing is validated again, which would cost as much as writing the answer.
        """
        predictions: list[Prediction] = []
        errors: list[Problem] = []
        for index, (outcome, file) in enumerate(zip(outcomes, files, strict=True)):
            if isinstance(outcome, ImageError):
                errors.append(problem(outcome.code, str(outcome), index=index, file=file))
            else:
                predictions.append(Prediction.of(outcome, index=index, file=file))
        return cls.model_construct(
            model=model,
            **dict(targets),
            source=source,
            predictions=tuple(predictions),
            errors=tuple(errors),
            timing_ms=timing,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """One image of a stream: its prediction, or the problem it met."""

    image: ImageLike
    prediction: Prediction | None
    problem: Problem | None = None

    @classmethod
    def of(cls, image: ImageLike, outcome: Outcome) -> Result:
        """The result of an image with this outcome."""
        if isinstance(outcome, ImageError):
            return cls(image, None, problem_of(outcome))
        return cls(image, Prediction.of(outcome, file=name_of(image)))


class PredictRequest(Frozen):
    """The JSON body of `POST /predict`: images as base64 or `data:` URI strings."""

    images: Annotated[tuple[str, ...], Field(min_length=1, fail_fast=True)]


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
    explanation: Explanation | None = None
    quality: Quality | None = None

    @field_validator("scores")
    @classmethod
    def _finite(cls, scores: dict[ScoreName, ScoreVerdict]) -> dict[ScoreName, ScoreVerdict]:
        for name, score in scores.items():
            if not all(map(math.isfinite, (score.value, score.threshold, score.percentile))):
                raise ValueError(f"{name} is not finite")
        return scores

    @classmethod
    def of(
        cls,
        verdict: Verdict,
        *,
        model: ModelRef,
        accept: float,
        time: datetime,
        explanation: Explanation | None = None,
    ) -> FlaggedSample:
        """What is kept of one verdict, and of its explanation where there is one."""
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
            explanation=explanation,
            quality=verdict.quality,
        )


class FlaggedImage(Frozen):
    """An image as it was sent, encoded."""

    content_type: str
    base64: str


class FlaggedData(Frozen):
    """A sampled flagged image and what the guard said of it."""

    sample: FlaggedSample
    image: FlaggedImage


class FlaggedEvent(Frozen):
    """The body of a webhook about one flagged image; its envelope is that of Standard Webhooks.

    ```python
    event = FlaggedEvent.model_validate_json(body)  # once its signature is right
    image = base64.b64decode(event.data.image.base64)
    ```
    """

    type: Literal["image.flagged"] = "image.flagged"
    timestamp: AwareDatetime
    data: FlaggedData

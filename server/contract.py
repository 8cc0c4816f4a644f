"""What `POST /predict` returns, and the problem documents of every error (RFC 9457)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from oodguard.export.contract import Verdict


class Frozen(BaseModel):
    """Base of every HTTP model: immutable, and a field nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRef(Frozen):
    """The model that answered."""

    name: str
    version: str


class Prediction(Verdict):
    """One image's verdict. `index` is its place in the request, `file` the name it was sent under, if any."""

    index: int
    file: str | None = None


class Problem(Frozen):
    """A problem document: `application/problem+json`.

    `code` is stable and meant for programs; `detail` is a sentence for people. `index` and `file` name the image
    where one image is at fault.
    """

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    index: int | None = None
    file: str | None = None
    errors: tuple[Problem, ...] = ()


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

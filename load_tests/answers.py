"""What came back of one request, as far as a load test counts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from oodguard.core.answers import PredictResponse
from oodguard.core.errors import QualityError
from oodguard.core.manifest import Manifest
from oodguard.load_tests.triton_http import read_outputs

BROKEN = "broken"
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Answer:
    """A status (or `broken`: none came; `unreadable`: not an answer of ours), and what it says of its images."""

    outcome: str
    images: int = 0
    flagged: int = 0
    unusable: int = 0


def gateway_answer(status: int, content: bytes) -> Answer:
    """An answer to `POST /predict`."""
    if status != 200:
        return Answer(str(status) if status else BROKEN)
    try:
        found = PredictResponse.model_validate_json(content)
    except ValidationError:
        return Answer(UNREADABLE)
    return Answer(
        "200", len(found.predictions), sum(prediction.is_ood for prediction in found.predictions), len(found.errors)
    )


def triton_answer(status: int, content: bytes, headers: Mapping[str, str], manifest: Manifest) -> Answer:
    """An answer of Triton's, judged as its callers must: with the manifest."""
    if status != 200:
        return Answer(str(status) if status else BROKEN)
    try:
        verdicts = manifest.judge(read_outputs(content, headers))
    except (ValueError, KeyError, QualityError):
        return Answer(UNREADABLE)
    return Answer("200", len(verdicts), sum(verdict.is_ood for verdict in verdicts))

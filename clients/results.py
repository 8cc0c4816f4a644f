"""What a stream of images yields."""

from __future__ import annotations

from dataclasses import dataclass

from oodguard.clients.errors import ServerProblem
from oodguard.clients.images import ImageLike
from oodguard.core.answers import Prediction
from oodguard.core.errors import InputError
from oodguard.core.problems import Problem

CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class Result:
    """One image of a stream: its prediction, or the problem it met."""

    image: ImageLike
    prediction: Prediction | None
    problem: Problem | None = None


def problem_of(error: ServerProblem | InputError) -> Problem:
    """The problem of one image that got no answer."""
    if isinstance(error, ServerProblem):
        return error.problem
    return Problem(title="Cannot be sent", status=400, code="unreadable", detail=str(error))

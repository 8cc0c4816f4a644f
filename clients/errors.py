"""Every error that a client raises.

ClientError
|- ServerUnreachable   nothing answers at the address, or not in time
`- ServerProblem       the server answered with a problem document, which `.problem` holds; a `Refused` (core), too
"""

from __future__ import annotations

from oodguard.core.errors import EnvironmentProblem, OodguardError
from oodguard.core.problems import Problem, Refused


class ClientError(OodguardError):
    """Base of the client's errors."""


class ServerUnreachable(ClientError, EnvironmentProblem):
    """Nothing answers at the address, or not in time."""


class ServerProblem(ClientError, Refused):
    """The server refused the request or failed on it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, f"{problem.title} ({problem.status}): {problem.detail}")

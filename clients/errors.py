"""What a client raises.

ClientError
|- ServerUnreachable   nothing answers at the address, or not in time
`- ServerProblem       the server answered with a problem document; `.problem` holds it
"""

from __future__ import annotations

from oodguard.core.errors import EnvironmentProblem, OodguardError
from oodguard.core.problems import Problem


class ClientError(OodguardError):
    """Base of the client's errors."""


class ServerUnreachable(ClientError, EnvironmentProblem):
    """Nothing answers at the address, or not in time."""


class ServerProblem(ClientError):
    """The server refused the request or failed on it."""

    def __init__(self, problem: Problem) -> None:
        where = f"{problem.file}: " if problem.file else ""
        super().__init__(f"{where}{problem.title} ({problem.status}): {problem.detail}")
        self.problem = problem

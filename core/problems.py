"""What went wrong, as a document (RFC 9457)."""

from __future__ import annotations

from oodguard.core.codes import Code
from oodguard.core.errors import OodguardError
from oodguard.core.frozen import Frozen


class Problem(Frozen):
    """A problem document: `application/problem+json`.

    `code` is stable and meant for programs (see `Code`; a newer server may know more); `detail` is a sentence for
    people. `index` and `file` name the image where one image is at fault.
    """

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    index: int | None = None
    file: str | None = None
    errors: tuple[Problem, ...] = ()


class Refused(OodguardError):
    """A call of a guard or a server was refused as a whole; `problem` says why.

    Where no image could be used, `problem.errors` has the reason of each.
    """

    def __init__(self, problem: Problem, why: str | None = None) -> None:
        where = f"{problem.file}: " if problem.file else ""
        super().__init__(f"{where}{why or problem.detail}")
        self.problem = problem


def problem(
    code: Code,
    detail: str,
    *,
    index: int | None = None,
    file: str | None = None,
    status: int | None = None,
    errors: tuple[Problem, ...] = (),
) -> Problem:
    """The problem document of a code; `status` replaces the code's own."""
    return Problem(
        title=code.phrase,
        status=status or code.status,
        code=code,
        detail=detail,
        index=index,
        file=file,
        errors=errors,
    )


def problem_of(error: Exception) -> Problem:
    """The problem document of a domain error. Anything unexpected is an internal error without details."""
    if isinstance(error, Refused):
        return error.problem
    code = getattr(error, "code", None)
    if isinstance(error, OodguardError) and isinstance(code, Code):
        return problem(code, str(error))
    return problem(Code.INTERNAL, "the server failed on this request; its log says more")


def summary_of(failures: tuple[Problem, ...]) -> Problem:
    """The problem document of a request in which no image could be used."""
    if len(failures) == 1:
        return failures[0]
    statuses = {failure.status for failure in failures}
    return problem(
        Code.ALL_FAILED,
        f"none of the {len(failures)} images could be used; errors says why",
        status=statuses.pop() if len(statuses) == 1 else None,
        errors=failures,
    )

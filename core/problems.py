"""What went wrong, as a document (RFC 9457): every code with its HTTP status and title, once."""

from __future__ import annotations

from oodguard.core.errors import OodguardError
from oodguard.core.frozen import Frozen


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


class Refused(OodguardError):
    """A call of a guard or a server was refused as a whole; `problem` says why.

    Where no image could be used, `problem.errors` has the reason of each.
    """

    def __init__(self, problem: Problem, why: str | None = None) -> None:
        where = f"{problem.file}: " if problem.file else ""
        super().__init__(f"{where}{why or problem.detail}")
        self.problem = problem


PROBLEMS: dict[str, tuple[int, str]] = {
    "empty": (422, "Empty image"),
    "unsupported_type": (415, "Unsupported image type"),
    "too_many_bytes": (413, "Image too large"),
    "too_many_pixels": (413, "Image too large"),
    "cannot_decode": (422, "Image cannot be decoded"),
    "cannot_read": (400, "File cannot be read"),
    "not_a_file": (400, "Not an ordinary file"),
    "bad_base64": (422, "Not base64"),
    "all_failed": (422, "No image could be used"),
    "no_images": (400, "No image in the request"),
    "bad_body": (400, "Malformed request body"),
    "unsupported_body": (415, "Unsupported content type"),
    "body_too_large": (413, "Request body too large"),
    "too_many_files": (413, "Too many images"),
    "bad_parameter": (422, "Parameter out of range"),
    "unauthorized": (401, "API key needed"),
    "too_slow": (408, "Request too slow"),
    "overloaded": (429, "Too many requests"),
    "bad_request": (400, "Malformed request"),
    "header_too_large": (431, "Request head too large"),
    "reload_refused": (422, "Bundle refused"),
    "client_gone": (499, "Client closed the connection"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "engine_failed": (500, "Inference failed"),
    "deadline_missed": (504, "Deadline missed"),
    "not_ready": (503, "Not ready"),
    "internal": (500, "Internal error"),
}


def problem(code: str, detail: str, *, index: int | None = None, file: str | None = None) -> Problem:
    """The problem document of an error code."""
    status, title = PROBLEMS[code]
    return Problem(title=title, status=status, code=code, detail=detail, index=index, file=file)


def problem_of(error: Exception) -> Problem:
    """The problem document of a domain error. Anything unexpected is an internal error without details."""
    if isinstance(error, Refused):
        return error.problem
    code = getattr(error, "code", None) if isinstance(error, OodguardError) else None
    if code in PROBLEMS:
        return problem(code, str(error))
    return problem("internal", "the server failed on this request; its log says more")


def summary_of(failures: tuple[Problem, ...]) -> Problem:
    """The problem document of a request in which no image could be used."""
    if len(failures) == 1:
        return failures[0]
    status, title = PROBLEMS["all_failed"]
    codes = {failure.status for failure in failures}
    return Problem(
        title=title,
        status=codes.pop() if len(codes) == 1 else status,
        code="all_failed",
        detail=f"none of the {len(failures)} images could be used; errors says why",
        errors=failures,
    )

"""Errors as HTTP responses: problem documents (RFC 9457), or `{"error": ...}` under `/v2`, as that protocol wants."""

from __future__ import annotations

from fastapi.responses import JSONResponse, Response

from oodguard.core.problems import Problem, problem_of
from oodguard.server.errors import Overloaded

PROBLEM_JSON = "application/problem+json"


def error_response(error: Exception, *, path: str) -> Response:
    """What an error looks like on a route; one that nobody expected says nothing about its cause."""
    retry_after = error.retry_after if isinstance(error, Overloaded) else None
    return problem_response(problem_of(error), path=path, retry_after=retry_after)


def problem_response(found: Problem, *, path: str, retry_after: int | None = None) -> Response:
    """A problem document as a response."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    if found.status == 401:
        headers["www-authenticate"] = "Bearer"
    if path.startswith("/v2"):
        where = "" if found.index is None else f"image {found.index}: "
        text = f"{found.code}: {where}{found.detail}"
        return JSONResponse({"error": text}, status_code=found.status, headers=headers)
    body = found.model_dump(exclude_none=True)
    if not body["errors"]:
        del body["errors"]
    return JSONResponse(body, status_code=found.status, media_type=PROBLEM_JSON, headers=headers)

"""Errors as HTTP responses: problem documents (RFC 9457), or `{"error": ...}` under `/v2`, as that protocol wants."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse, Response

from oodguard.core.codes import Code
from oodguard.core.problems import Problem, problem_of
from oodguard.server.errors import Overloaded
from oodguard.server.metrics import Metrics

PROBLEM_JSON = "application/problem+json"


def documented(description: str) -> dict[str, Any]:
    """A problem as one of the `responses` of a route's OpenAPI documentation."""
    return {"model": Problem, "content": {PROBLEM_JSON: {}}, "description": description}


def refuse(error: Exception, *, path: str, metrics: Metrics) -> Response:
    """Count an error under its code, and answer it; an error that nobody expected says nothing about its cause."""
    found = problem_of(error)
    metrics.refuse(Code(found.code))
    return problem_response(found, path=path, retry_after=error.retry_after if isinstance(error, Overloaded) else None)


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

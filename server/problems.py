"""Errors as HTTP responses: problem documents (RFC 9457), or `{"error": ...}` under `/v2`, as that protocol wants."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from oodguard.core.codes import Code
from oodguard.core.problems import Problem, problem
from oodguard.server.coding import CODINGS

PROBLEM_JSON = "application/problem+json"


def documented(description: str) -> dict[str, Any]:
    """A problem as one of the `responses` of a route's OpenAPI documentation."""
    return {"model": Problem, "content": {PROBLEM_JSON: {}}, "description": description}


def unroutable(error: HTTPException, *, method: str, path: str, meant: str | None = None) -> Response:
    """The answer to a request for which the router has no endpoint; `meant`: the path that it is likely to mean."""
    code = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED}.get(error.status_code, Code.BAD_REQUEST)
    hint = f"; ask {meant[:200]}, without the slash" if meant and code is Code.NOT_FOUND else ""
    response = problem_response(problem(code, f"{method} {path[:200]}: {error.detail}{hint}"), path=path)
    response.headers.update(error.headers or {})
    if "GET" in response.headers.get("allow", "") and "HEAD" not in response.headers["allow"]:
        response.headers["allow"] += ", HEAD"
    return response


def sentence(found: Problem) -> str:
    """A problem as one line: its code, the image at fault, and why."""
    where = "" if found.index is None else f"image {found.index}: "
    return f"{found.code}: {where}{found.detail}"


def problem_response(found: Problem, *, path: str, retry_after: int | None = None) -> Response:
    """A problem document as a response."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    if found.status == 401:
        headers["www-authenticate"] = "Bearer"
    if found.code == Code.UNSUPPORTED_BODY:
        # RFC 9110, 15.5.16: what would have been taken.
        headers["accept-encoding"] = ", ".join(CODINGS)
    if path.startswith("/v2"):
        return JSONResponse({"error": sentence(found)}, status_code=found.status, headers=headers)
    body = found.model_dump(exclude_none=True)
    if not body["errors"]:
        del body["errors"]
    return JSONResponse(body, status_code=found.status, media_type=PROBLEM_JSON, headers=headers)

"""A reverse proxy that only lets images through which the model knows; the others wait in a folder for a person.

    pip install "path/to/clone[serve,client]"
    GUARD=http://localhost:8000 UPSTREAM=http://localhost:9000 REVIEW=review uvicorn review_proxy:app --port 8080
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://localhost:8080/orders/17/photo
    oodguard review review

An image in distribution goes on to UPSTREAM under the same path, with the guard's label in X-Label. One that is out of
distribution is answered with 202 and kept in REVIEW, in the form that `oodguard review` reads. Without a verdict
nothing passes.
"""

import contextlib
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from oodguard.clients import AsyncClient
from oodguard.clients.errors import ServerProblem, ServerUnreachable
from oodguard.core.answers import FlaggedSample

MAX_BYTES = 20 * 1024 * 1024
# Those that belong to one connection and not to the message (RFC 9110, 7.6.1), and those httpx sets itself.
OWN = {"connection", "content-length", "host", "keep-alive", "te", "transfer-encoding", "upgrade", "content-encoding"}


async def route(request: Request):
    """One image: on to the upstream server, or to a person."""
    image = b""
    async for piece in request.stream():
        image += piece
        if len(image) > MAX_BYTES:
            return JSONResponse({"detail": f"an image may have {MAX_BYTES} bytes"}, 413)
    try:
        answer = await request.app.state.guard.predict([image])
    except ServerProblem as error:
        status = error.problem.status
        # A bad image is the caller's; anything else is between this proxy and the guard.
        return JSONResponse({"detail": error.problem.detail}, status if status in (413, 415, 422) else 503)
    except ServerUnreachable:
        return JSONResponse({"detail": "the guard cannot be asked now"}, 503, {"Retry-After": "5"})
    found = answer.predictions[0]
    if found.is_ood:
        sample = FlaggedSample.of(found, model=answer.model, accept=answer.accept, time=datetime.now(UTC))
        return JSONResponse({"review": keep(request.app.state.review, image, sample)}, 202)
    headers = {name: value for name, value in request.headers.items() if name not in OWN}
    upstream = request.app.state.upstream
    try:
        passed = await upstream.request(
            request.method,
            upstream.base_url.copy_with(path=request.url.path, query=request.url.query.encode()),
            content=image,
            headers={**headers, "x-label": quote(found.label)},
        )
    except httpx.HTTPError:
        return JSONResponse({"detail": "the upstream server cannot be reached"}, 502)
    kept = {name: value for name, value in passed.headers.items() if name not in OWN}
    return Response(passed.content, passed.status_code, kept)


def keep(folder, image, sample):
    """Put an image and its sidecar into the folder; its name. The image comes last: a pair is never half there."""
    name = uuid.uuid4().hex
    (folder / f"{name}.json").write_text(sample.model_dump_json(), encoding="utf-8")
    (folder / f"{name}.jpg").write_bytes(image)
    return name


@contextlib.asynccontextmanager
async def lifespan(app):
    """Open the connections, and the folder."""
    app.state.review = Path(os.environ["REVIEW"])
    app.state.review.mkdir(parents=True, exist_ok=True)
    key = os.environ.get("OODGUARD_KEY")
    async with (
        AsyncClient(os.environ["GUARD"], key=key, timeout=20) as app.state.guard,
        httpx.AsyncClient(base_url=os.environ["UPSTREAM"], timeout=20) as app.state.upstream,
    ):
        yield


app = Starlette(routes=[Route("/{path:path}", route, methods=["POST", "PUT"])], lifespan=lifespan)

"""From an HTTP request to image payloads: multipart, a raw image body, or JSON with base64 strings."""

from __future__ import annotations

import base64
import binascii
import re

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from oodguard.server.contract import PredictRequest
from oodguard.server.errors import RequestError
from oodguard.server.service import Payload
from oodguard.server.settings import ServeSettings
from oodguard.training.errors import ImageError

RAW_TYPES = ("application/octet-stream",)
DATA_URI = re.compile(r"^data:[\w.+/-]*(;[\w.+=-]+)*;base64,", re.IGNORECASE)


async def read_payloads(request: Request, settings: ServeSettings) -> list[Payload]:
    """The images of a request, in order.

    Raises `RequestError` for a body that cannot be used at all; a single bad base64 string is that image's error.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    limited = Request(request.scope, _limited(request.receive, settings.max_body_bytes))
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > settings.max_body_bytes:
        raise _too_large(settings.max_body_bytes)
    try:
        if kind == "multipart/form-data":
            payloads = await _multipart(limited, settings)
        elif kind == "application/json":
            payloads = _json(await limited.body())
        elif kind.startswith("image/") or kind in RAW_TYPES:
            body = await limited.body()
            payloads = [Payload(body)] if body else []
        else:
            raise RequestError(
                "unsupported_body",
                f"content type {kind or 'missing'!r} is not supported; send multipart/form-data, image/*, "
                "application/octet-stream or application/json",
            )
    except ClientDisconnect:
        raise RequestError("bad_body", "the client went away before the body was complete") from None
    if not payloads:
        raise RequestError("no_images", "the request holds no image; send at least one file")
    if len(payloads) > settings.max_files:
        raise _too_many(settings.max_files)
    return payloads


def _too_large(limit: int) -> RequestError:
    return RequestError("body_too_large", f"the request body is larger than {limit:,} bytes")


def _too_many(limit: int) -> RequestError:
    return RequestError("too_many_files", f"the request holds more than {limit} images")


def _limited(receive: Receive, limit: int) -> Receive:
    """Count the body as it streams in, and stop reading once it is too large."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return counted


async def _multipart(request: Request, settings: ServeSettings) -> list[Payload]:
    try:
        form = await request.form(
            max_files=settings.max_files, max_fields=settings.max_files, max_part_size=settings.max_image_bytes
        )
    except (MultiPartException, HTTPException) as error:
        detail = str(getattr(error, "message", None) or getattr(error, "detail", None) or error)
        if detail.startswith("Too many files"):
            raise _too_many(settings.max_files) from None
        raise RequestError("bad_body", f"the multipart body cannot be read ({detail})") from None
    async with request.form():
        return [
            Payload(await value.read(), file=value.filename or None)
            for _, value in form.multi_items()
            if isinstance(value, UploadFile)
        ]


def _json(body: bytes) -> list[Payload]:
    try:
        images = PredictRequest.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise RequestError("bad_body", f"the JSON body does not fit: {where}: {first['msg']}") from None
    return [_decoded(text) for text in images]


def _decoded(text: str) -> Payload:
    try:
        return Payload(base64.b64decode(DATA_URI.sub("", text.strip(), count=1), validate=True))
    except (binascii.Error, ValueError):
        return Payload(b"", error=ImageError("bad_base64", "not a base64 string or a base64 data: URI"))

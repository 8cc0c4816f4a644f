"""From an HTTP request to image payloads, within limits that hold while the body arrives.

A body is multipart, a raw image, or JSON with base64 strings.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable

from pydantic import ValidationError
from starlette.requests import Request

from oodguard.core.answers import PredictRequest
from oodguard.core.errors import ImageError
from oodguard.server.admission import Reservation
from oodguard.server.errors import ClientGone, RequestError
from oodguard.server.multipart import FileCollector
from oodguard.server.service import GuardService, Payload
from oodguard.server.settings import ServeSettings

RAW_TYPES = ("application/octet-stream",)
DATA_URI = re.compile(r"^data:[\w.+/-]*(;[\w.+=-]+)*;base64,", re.IGNORECASE)
# A larger JSON body is parsed in a worker thread: it would hold up everybody else's answers.
JSON_ON_LOOP = 256 * 1024


async def read_payloads(request: Request, service: GuardService, reservation: Reservation) -> list[Payload]:
    """The images of a request, in order; they and their bytes are held by `reservation`.

    Raises `RequestError` for a body that cannot be used at all, `Overloaded` when there is no room for it and
    `ClientGone` when it never ends; a single bad base64 string is that image's error.
    """
    settings = service.settings
    content_type = request.headers.get("content-type", "")
    kind = content_type.split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        collector = FileCollector(content_type, settings)
        await _stream(request, settings, reservation, collector.feed)
        payloads = [Payload(bytes(part.data), part.name, part.error) for part in collector.finish()]
    elif kind == "application/json":
        body = await read_body(request, settings, reservation)
        if len(body) > JSON_ON_LOOP:
            payloads = await asyncio.get_running_loop().run_in_executor(service.workers, _json, body)
        else:
            payloads = _json(body)
    elif kind.startswith("image/") or kind in RAW_TYPES:
        body = await read_body(request, settings, reservation)
        payloads = [Payload(body)] if body else []
    else:
        raise RequestError(
            "unsupported_body",
            f"content type {kind[:80] or 'missing'!r} is not supported; send multipart/form-data, image/*, "
            "application/octet-stream or application/json",
        )
    if not payloads:
        raise RequestError("no_images", "the request holds no image; send at least one file")
    if len(payloads) > settings.max_files:
        raise RequestError("too_many_files", f"the request holds more than {settings.max_files} images")
    reservation.grow(images=len(payloads))
    return payloads


async def read_body(request: Request, settings: ServeSettings, reservation: Reservation) -> bytes:
    """The whole body. Raises as `read_payloads` does."""
    chunks: list[bytes] = []
    await _stream(request, settings, reservation, chunks.append)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _stream(
    request: Request, settings: ServeSettings, reservation: Reservation, take: Callable[[bytes], None]
) -> None:
    """Hand the body over as it arrives; stop reading once it is too large or too slow."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > settings.max_body_bytes:
        raise _too_large(settings.max_body_bytes)
    seen = 0
    more = True
    try:
        async with asyncio.timeout(settings.body_timeout):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("the client went away before the body was complete")
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                seen += len(chunk)
                if seen > settings.max_body_bytes:
                    raise _too_large(settings.max_body_bytes)
                reservation.grow(body_bytes=len(chunk))
                take(chunk)
    except TimeoutError:
        raise RequestError("too_slow", f"the request body did not arrive within {settings.body_timeout:g} s") from None


def _too_large(limit: int) -> RequestError:
    return RequestError("body_too_large", f"the request body is larger than {limit:,} bytes")


def _json(body: bytes) -> list[Payload]:
    try:
        images = PredictRequest.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise RequestError("bad_body", f"the JSON body does not fit: {where[:80]}: {first['msg'][:200]}") from None
    return [_decoded(text) for text in images]


def _decoded(text: str) -> Payload:
    try:
        return Payload(base64.b64decode(DATA_URI.sub("", text.strip(), count=1), validate=True))
    except (binascii.Error, ValueError):
        return Payload(b"", error=ImageError("bad_base64", "not a base64 string or a base64 data: URI"))

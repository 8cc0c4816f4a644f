"""From an HTTP request to parsed images, within limits that hold while the body arrives.

A body of `/predict` is multipart, a raw image, or JSON with base64 strings.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import ValidationError

from oodguard.core.answers import PredictRequest
from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.core.frozen import first_fault
from oodguard.server.call import Call
from oodguard.server.errors import ClientGone, RequestError
from oodguard.server.judging import ParsedImage
from oodguard.server.multipart import FileCollector

RAW_TYPES = ("application/octet-stream",)
DATA_URI = re.compile(r"^data:[\w.+/-]*(;[\w.+=-]+)*;base64,", re.IGNORECASE)
# A larger JSON body is parsed in a worker thread: it would hold up everybody else's answers.
JSON_ON_LOOP = 256 * 1024

# An image, and the name it was sent under, if any.
NamedImage = tuple[ParsedImage, str | None]
T = TypeVar("T")


async def read_images(call: Call, workers: ThreadPoolExecutor) -> list[NamedImage]:
    """The images of a request to `/predict`, in order; they and their bytes are held by the call's reservation.

    Raises `RequestError` for a body that cannot be used at all, `Overloaded` when there is no room for it and
    `ClientGone` when it never ends; a single bad base64 string is that image's error.
    """
    content_type = call.request.headers.get("content-type", "")
    kind = content_type.split(";")[0].strip().lower()
    images: list[NamedImage]
    if kind == "multipart/form-data":
        collector = FileCollector(content_type, call.settings)
        await _stream(call, collector.feed)
        images = [(part.error or bytes(part.data), part.name) for part in collector.finish()]
    elif kind == "application/json":
        images = await parsed(await read_body(call), _json, workers)
    elif kind.startswith("image/") or kind in RAW_TYPES:
        body = await read_body(call)
        images = [(body, None)] if body else []
    else:
        raise RequestError(
            Code.UNSUPPORTED_BODY,
            f"content type {kind[:80] or 'missing'!r} is not supported; send multipart/form-data, image/*, "
            "application/octet-stream or application/json",
        )
    call.hold(len(images))
    return images


async def read_body(call: Call) -> bytes:
    """The whole body. Raises as `read_images` does."""
    chunks: list[bytes] = []
    await _stream(call, chunks.append)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def parsed(body: bytes, parse: Callable[[bytes], T], workers: ThreadPoolExecutor) -> T:
    """What `parse` makes of a body, without holding up the event loop for a large one."""
    if len(body) <= JSON_ON_LOOP:
        return parse(body)
    return await asyncio.get_running_loop().run_in_executor(workers, parse, body)


async def _stream(call: Call, take: Callable[[bytes], None]) -> None:
    """Hand the body over as it arrives; stop reading once it is too large or too slow."""
    headers, limit = call.request.headers, call.settings.max_body_bytes
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise RequestError(
            Code.UNSUPPORTED_BODY,
            f"content encoding {encoding[:80]!r} is not supported; send the body uncompressed",
        )
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    seen = 0
    more = True
    try:
        async with asyncio.timeout(call.settings.body_timeout):
            while more:
                message = await call.request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("the client went away before the body was complete")
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                seen += len(chunk)
                if seen > limit:
                    raise _too_large(limit)
                call.reservation.grow(body_bytes=len(chunk))
                take(chunk)
    except TimeoutError:
        raise RequestError(
            Code.TOO_SLOW, f"the request body did not arrive within {call.settings.body_timeout:g} s"
        ) from None


def _too_large(limit: int) -> RequestError:
    return RequestError(Code.BODY_TOO_LARGE, f"the request body is larger than {limit:,} bytes")


def _json(body: bytes) -> list[NamedImage]:
    try:
        images = PredictRequest.model_validate_json(body).images
    except ValidationError as error:
        raise RequestError(Code.BAD_BODY, f"the JSON body does not fit: {first_fault(error, whole='body')}") from None
    return [(_decoded(text), None) for text in images]


def _decoded(text: str) -> ParsedImage:
    try:
        return base64.b64decode(DATA_URI.sub("", text.strip(), count=1), validate=True)
    except (binascii.Error, ValueError):
        return ImageError(Code.BAD_BASE64, "not a base64 string or a base64 data: URI")

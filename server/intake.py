"""From an HTTP request to parsed images, within limits that hold while the body arrives.

A body of `/predict` is multipart, a raw image, or JSON with base64 strings.
"""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from pydantic import ValidationError

from oodguard.core.answers import PredictRequest
from oodguard.core.codes import Code
from oodguard.core.frozen import first_fault
from oodguard.server.base64_text import decoded
from oodguard.server.call import Call
from oodguard.server.coding import Coding
from oodguard.server.errors import ClientGone, RequestError
from oodguard.server.json_bodies import OTHERS, require_small_json
from oodguard.server.judging import ParsedImage
from oodguard.server.multipart import RAW_TYPES, FileCollector, FilePart, is_image_type
from oodguard.server.numerals import whole
from oodguard.server.settings import ServeSettings

JSON_TYPE = "application/json"
# A larger JSON body is parsed in a worker thread: it would hold up everybody else's answers.
JSON_ON_LOOP = 256 * 1024

# Values of a JSON body beside its strings; few, so that too many images are called so.
MOST_FRAME = 16

# An image, and the name it was sent under, if any.
NamedImage = tuple[ParsedImage, str | None]
T = TypeVar("T")


async def read_images(call: Call, workers: ThreadPoolExecutor) -> list[NamedImage]:
    """The images of a request to `/predict`, in order; they and their bytes are held by the call's reservation.

    Raises `RequestError` for a body that cannot be used at all, `Overloaded` when there is no room for it and
    `ClientGone` when it never ends; a single bad base64 string is that image's error.
    """
    # What names no type is taken for bytes (RFC 9110, 8.3): the image's first bytes say what it is.
    content_type = call.request.headers.get("content-type") or RAW_TYPES[0]
    kind = content_type.split(";")[0].strip().lower()
    images: list[NamedImage]
    if kind == "multipart/form-data":
        collector = FileCollector(content_type, call.settings)
        await _stream(call, collector.feed, workers)
        parts = collector.finish()
        if any(part.encoded for part in parts):
            await asyncio.get_running_loop().run_in_executor(workers, _decode, parts)
        images = [(part.error or bytes(part.data), part.name) for part in parts]
    elif kind == JSON_TYPE or kind.endswith("+json"):
        images = await parsed(await read_body(call, workers), partial(_json, settings=call.settings), workers)
    elif is_image_type(kind):
        body = await read_body(call, workers)
        images = [(body, None)] if body else []
    else:
        raise RequestError(
            Code.UNSUPPORTED_BODY,
            f"content type {kind[:80]!r} is not supported; send multipart/form-data, image/*, "
            "application/octet-stream or application/json",
        )
    call.hold(len(images))
    return images


async def read_body(call: Call, workers: ThreadPoolExecutor) -> bytes:
    """The whole body. Raises as `read_images` does."""
    chunks: list[bytes] = []
    await _stream(call, chunks.append, workers)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def parsed(body: bytes, parse: Callable[[bytes], T], workers: ThreadPoolExecutor) -> T:
    """What `parse` makes of a body, without holding up the event loop for a large one."""
    if len(body) <= JSON_ON_LOOP:
        return parse(body)
    return await asyncio.get_running_loop().run_in_executor(workers, parse, body)


async def _stream(call: Call, take: Callable[[bytes], None], workers: ThreadPoolExecutor) -> None:
    """Hand the body over, decompressed, as it arrives; stop reading once it is too large or too slow."""
    headers, limit = call.request.headers, call.settings.max_body_bytes
    coding = Coding.of(headers.get("content-encoding", ""))
    length = whole(headers.get("content-length", ""))
    if length is not None and length > limit:
        raise _too_large(limit)
    received = kept = 0

    def keep(piece: bytes) -> None:
        nonlocal kept
        kept += len(piece)
        if kept > limit:
            raise _too_large(limit, " when it is decompressed")
        call.reservation.grow(body_bytes=len(piece))
        take(piece)

    more = True
    try:
        async with asyncio.timeout(call.settings.body_timeout):
            while more:
                message = await call.request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("the client went away before the body was complete")
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                received += len(chunk)
                if received > limit:
                    raise _too_large(limit)
                if coding is None:
                    keep(chunk)
                    continue
                # A little that arrived may become a lot, which must not hold up everybody else's answers.
                pieces = coding.pieces(chunk)
                while piece := await asyncio.get_running_loop().run_in_executor(workers, next, pieces, b""):
                    keep(piece)
    except TimeoutError:
        of = "" if length is None else f" of {length:,}"
        raise RequestError(
            Code.TOO_SLOW,
            f"{received:,}{of} bytes of the body arrived within {call.settings.body_timeout:g} s; send a smaller "
            "image, or raise body_timeout",
        ) from None
    if coding is not None:
        coding.finish()
    call.arrived()


def _too_large(limit: int, when: str = "") -> RequestError:
    return RequestError(
        Code.BODY_TOO_LARGE, f"the request body is larger than {limit:,} bytes{when}; send fewer images"
    )


def _decode(parts: list[FilePart]) -> None:
    for part in parts:
        part.decode()


def _json(body: bytes, settings: ServeSettings) -> list[NamedImage]:
    most = settings.max_files + OTHERS
    require_small_json(body, most_bytes=settings.max_json_bytes, most_strings=most, most_values=most + MOST_FRAME)
    try:
        # RFC 8259 lets a reader ignore a byte order mark; PowerShell and .NET write one.
        images = PredictRequest.model_validate_json(body.removeprefix(BOM_UTF8)).images
    except ValidationError as error:
        raise RequestError(Code.BAD_BODY, f"the JSON body does not fit: {first_fault(error, whole='body')}") from None
    return [(decoded(text), None) for text in images]

"""The Open Inference Protocol, version 2: its messages, JSON and binary tensors, to and from arrays. No HTTP here."""

from __future__ import annotations

import json
import math
import struct
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pydantic_core
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from oodguard.core.answers import ModelRef
from oodguard.core.codes import Code
from oodguard.core.errors import ImageError
from oodguard.core.frozen import Frozen, first_fault
from oodguard.core.manifest import Manifest
from oodguard.core.quality import TRAITS
from oodguard.core.targets import TARGET_NAMES
from oodguard.server.base64_text import decoded
from oodguard.server.errors import RequestError
from oodguard.server.json_bodies import OTHERS, require_small_json
from oodguard.server.judging import ParsedImage
from oodguard.server.numerals import whole
from oodguard.server.settings import ServeSettings

ENCODED = "image"
PIXELS = "pixels"
EXPLANATION = "explanation"
# What the server says of itself.
SERVER = {"name": "oodguard", "version": "2"}
Array = npt.NDArray[Any]
Content = bytes | list[bytes] | Array | None
# The parameters of a request, a tensor or an output; clients that write every member write null for none.
Parameters = Annotated[dict[str, Any], BeforeValidator(lambda given: {} if given is None else given)]


class Liberal(Frozen):
    """Base of what callers send: members of other servers' dialects are ignored, and null is as good as absent."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Tensor(Liberal):
    """One input tensor."""

    name: str
    shape: tuple[int, ...] = Field(max_length=8, fail_fast=True)
    datatype: str
    parameters: Parameters = Field({})
    data: list[Any] | None = None


class Requested(Liberal):
    """One output the caller asks for."""

    name: str
    parameters: Parameters = Field({})


class InferRequest(Liberal):
    """The JSON part of an inference request."""

    id: str | None = None
    parameters: Parameters = Field({})
    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=8, fail_fast=True)
    outputs: tuple[Requested, ...] | None = Field(None, fail_fast=True)


def parse(
    body: bytes, *, header_length: str | None, manifest: Manifest, settings: ServeSettings
) -> tuple[InferRequest, list[ParsedImage]]:
    """A request body as its message and its images: encoded bytes or uint8 pixels, in order.

    `header_length` is the header `Inference-Header-Content-Length`: how much of the body is JSON, when tensors
    follow in binary. The message no longer holds the data of its input. Raises `RequestError`; a string that is not
    base64 is that image's error.
    """
    text, binary = body, b""
    if header_length is not None:
        length = whole(header_length)
        if length is None or length > len(body):
            raise RequestError(Code.BAD_BODY, "Inference-Header-Content-Length does not fit the body")
        text, binary = body[:length], body[length:]
    require_small_json(
        text,
        most_bytes=settings.max_json_bytes,
        most_strings=settings.max_files + OTHERS,
        most_values=settings.max_json_values,
    )
    try:
        message = InferRequest.model_validate(pydantic_core.from_json(text.removeprefix(BOM_UTF8)))
    except ValidationError as error:
        raise RequestError(Code.BAD_BODY, first_fault(error, whole="body")) from None
    except ValueError as error:
        raise RequestError(Code.BAD_BODY, f"the body is not JSON ({str(error)[:200]})") from None
    tensor = only_input(message)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.data is None or binary:
            raise RequestError(Code.BAD_BODY, f"input {tensor.name}: give either data or binary_data_size")
        images = images_of(tensor, None, manifest)
        # Numbers as Python holds them are not kept while the images wait.
        return message.model_copy(update={"inputs": (tensor.model_copy(update={"data": None}),)}), images
    if not isinstance(size, int) or isinstance(size, bool) or size != len(binary) or tensor.data is not None:
        raise RequestError(Code.BAD_BODY, f"input {tensor.name}: binary_data_size does not fit the body")
    return message, images_of(tensor, binary, manifest)


def only_input(message: InferRequest) -> Tensor:
    """The one input of a request. Raises `RequestError` for several, or another than the two that there are."""
    if len(message.inputs) != 1 or message.inputs[0].name not in (ENCODED, PIXELS):
        raise RequestError(Code.BAD_BODY, f"send exactly one input: {ENCODED!r} (BYTES) or {PIXELS!r} (UINT8)")
    return message.inputs[0]


def images_of(tensor: Tensor, content: Content, manifest: Manifest) -> list[ParsedImage]:
    """The images of an input: encoded bytes or uint8 pixels, in order.

    `content` is what came in binary: raw bytes, images one by one, or an array of whole numbers; None where the
    tensor's own JSON data count. Raises `RequestError`; a string that is not base64 is that image's error.
    """
    if tensor.name == ENCODED:
        return _encoded(tensor, content)
    return _pixels(tensor, content, manifest)


def _count(tensor: Tensor) -> int:
    if any(size < 0 for size in tensor.shape) or not tensor.shape:
        raise RequestError(Code.BAD_BODY, f"input {tensor.name}: the shape is not valid")
    return math.prod(tensor.shape)


def _encoded(tensor: Tensor, content: Content) -> list[ParsedImage]:
    if tensor.datatype != "BYTES":
        raise RequestError(Code.BAD_BODY, f"input {ENCODED}: the datatype is BYTES")
    count = _count(tensor)
    found: list[ParsedImage]
    if content is None:
        found = [_base64(text) for text in _flat(tensor.data or [])]
    elif isinstance(content, bytes):
        found = []
        place = 0
        while place < len(content):
            if place + 4 > len(content):
                raise RequestError(Code.BAD_BODY, f"input {ENCODED}: the binary data ends within a length")
            (size,) = struct.unpack_from("<I", content, place)
            place += 4 + size
            if place > len(content):
                raise RequestError(Code.BAD_BODY, f"input {ENCODED}: the binary data ends within an image")
            found.append(content[place - size : place])
    else:
        found = list(content)
    if len(found) != count:
        raise RequestError(Code.BAD_BODY, f"input {ENCODED}: the shape names {count} images and {len(found)} came")
    return found


def _flat(data: list[Any]) -> Iterator[Any]:
    """The elements in order: the protocol lets a tensor's data be nested as its shape is."""
    for item in data:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item


def _base64(text: Any) -> bytes | ImageError:
    if not isinstance(text, str):
        return ImageError(Code.BAD_BASE64, "JSON data of a BYTES image is base64 text")
    return decoded(text)


def _pixels(tensor: Tensor, content: Content, manifest: Manifest) -> list[ParsedImage]:
    shape = manifest.preprocessing.shape
    if tensor.datatype != "UINT8":
        raise RequestError(Code.BAD_BODY, f"input {PIXELS}: the datatype is UINT8")
    if len(tensor.shape) != 4 or tensor.shape[1:] != shape:
        raise RequestError(
            Code.BAD_BODY,
            f"input {PIXELS}: the shape is [N, {', '.join(map(str, shape))}]; got {list(tensor.shape)}",
        )
    count = _count(tensor)
    if isinstance(content, bytes):
        values = np.frombuffer(content, dtype=np.uint8)
    else:
        try:
            numbers = np.asarray(tensor.data if content is None else content, dtype=np.int64).ravel()
        except (ValueError, TypeError, OverflowError):
            raise RequestError(Code.BAD_BODY, f"input {PIXELS}: the data are not whole numbers") from None
        if numbers.size and (numbers.min() < 0 or numbers.max() > 255):
            raise RequestError(Code.BAD_BODY, f"input {PIXELS}: the data are not in 0..255")
        values = numbers.astype(np.uint8)
    if values.size != count:
        raise RequestError(Code.BAD_BODY, f"input {PIXELS}: the shape names {count} numbers and {values.size} came")
    return list(values.reshape(tensor.shape))


def encode(message: InferRequest, manifest: Manifest, arrays: dict[str, Array]) -> tuple[bytes, int | None]:
    """A response body, and the length of its JSON part where tensors follow in binary."""
    binary_all = _flag(message.parameters, "binary_data_output")
    tensors, parts = [], []
    for output in asked(message, arrays):
        values = arrays[output.name]
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": datatype(values),
            "shape": list(values.shape),
        }
        if _flag(output.parameters, "binary_data", default=binary_all):
            part = to_bytes(values)
            entry["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            entry["data"] = _to_json(values)
        tensors.append(entry)
    head: dict[str, Any] = {"model_name": manifest.name, "model_version": manifest.version}
    if message.id is not None:
        head["id"] = message.id
    text = json.dumps({**head, "outputs": tensors}, separators=(",", ":"), allow_nan=False).encode()
    return b"".join([text, *parts]), len(text) if parts else None


def asked(message: InferRequest, arrays: dict[str, Array]) -> tuple[Requested, ...]:
    """The outputs to answer, in order: those that the request names, or else all but `error`.

    `arrays` hold an explanation only where the request asks for it.
    """
    return message.outputs or tuple(Requested(name=name) for name in arrays if name != "error")


def datatype(values: Array) -> str:
    """How the protocol calls the type of an output."""
    return {"f": "FP32", "b": "BOOL", "O": "BYTES"}[values.dtype.kind]


def to_bytes(values: Array) -> bytes:
    """An output in binary: little-endian numbers, or each string behind its length in four bytes."""
    if values.dtype.kind == "O":
        return b"".join(struct.pack("<I", len(item)) + item for item in values.ravel())
    return values.tobytes()


def _to_json(values: Array) -> list[Any]:
    if values.dtype.kind == "O":
        return [item.decode() for item in values.ravel()]
    # The row of an image that failed holds no number, which JSON can only write as null.
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in values.ravel().tolist()]


def metadata(manifest: Manifest) -> dict[str, Any]:
    """The model metadata of the protocol."""
    classes, scores = len(manifest.classes), len(manifest.scores)
    sets = [{"name": "label_set", "datatype": "BOOL", "shape": [-1, classes]}] if manifest.has_label_sets else []
    fitness = [
        {"name": "quality", "datatype": "FP32", "shape": [-1, len(TRAITS)]},
        {"name": "quality_reason", "datatype": "BYTES", "shape": [-1]},
    ]
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": "oodguard",
        "inputs": [
            {"name": ENCODED, "datatype": "BYTES", "shape": [-1]},
            {"name": PIXELS, "datatype": "UINT8", "shape": [-1, *manifest.preprocessing.shape]},
        ],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "decision", "datatype": "BYTES", "shape": [-1]},
            {"name": "is_ood", "datatype": "BOOL", "shape": [-1]},
            {"name": "ood_score", "datatype": "FP32", "shape": [-1]},
            {"name": "threshold", "datatype": "FP32", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, scores]},
            *sets,
            *(fitness if manifest.calibration.quality else ()),
            {"name": "error", "datatype": "BYTES", "shape": [-1]},
            {"name": EXPLANATION, "datatype": "BYTES", "shape": [-1]},
        ],
    }


def check_outputs(message: InferRequest, manifest: Manifest) -> bool:
    """Whether the caller asks for `error`.

    Raises `RequestError` for an output that does not exist or repeats, and for a flag that is not a boolean.
    """
    _flag(message.parameters, "binary_data_output")
    for output in message.outputs or ():
        _flag(output.parameters, "binary_data")
    names = [output.name for output in message.outputs or ()]
    known = [output["name"] for output in metadata(manifest)["outputs"]]
    for name in names:
        if name not in known or names.count(name) > 1:
            raise RequestError(
                Code.BAD_BODY, f"output {name[:80]!r} does not exist or repeats; there are {', '.join(known)}"
            )
    if any("classification" in output.parameters for output in message.outputs or ()):
        raise RequestError(Code.BAD_BODY, "the classification extension is not supported; ask for label")
    return "error" in names


def _flag(parameters: dict[str, Any], name: str, *, default: bool = False) -> bool:
    given = parameters.get(name)
    if given is None:
        return default
    if not isinstance(given, bool):
        raise RequestError(Code.BAD_PARAMETER, f"the parameter {name} is true or false")
    return given


def require_model(served: ModelRef, name: str, version: str | None) -> None:
    """Raise `RequestError` unless a request names the model that is served; it need not name a version."""
    if name != served.name or version not in (None, served.version):
        raise RequestError(Code.NOT_FOUND, f"this server has {served.name} version {served.version}")


def asked_of(message: InferRequest) -> dict[str, float]:
    """The targets among the request's parameters."""
    asked = {name: value for name in TARGET_NAMES if (value := message.parameters.get(name)) is not None}
    for name, value in asked.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RequestError(Code.BAD_PARAMETER, f"the parameter {name} is a number")
    return asked


def explains(message: InferRequest) -> bool:
    """Whether the caller asks for explanations: by the parameter `explain`, or by the output's name.

    Raises `RequestError` for a parameter that is not a boolean.
    """
    named = any(output.name == EXPLANATION for output in message.outputs or ())
    return _flag(message.parameters, "explain") or named


def source_of(message: InferRequest) -> str | None:
    """The request parameter `source`."""
    source = message.parameters.get("source")
    if source is not None and not isinstance(source, str):
        raise RequestError(Code.BAD_PARAMETER, "the parameter source is a text")
    return source


def texts(items: Sequence[str]) -> Array:
    """Strings as a BYTES array."""
    found = np.empty(len(items), dtype=object)
    found[:] = [item.encode() for item in items]
    return found

"""The gRPC messages of the Open Inference Protocol, to and from the records that the HTTP routes use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from pydantic import ValidationError
from tritonclient.grpc import service_pb2 as pb

from oodguard.core.answers import ModelRef
from oodguard.core.codes import Code
from oodguard.core.frozen import first_fault
from oodguard.core.manifest import Manifest
from oodguard.core.targets import TARGET_NAMES
from oodguard.server import open_inference as oip
from oodguard.server.errors import RequestError
from oodguard.server.judging import ParsedImage
from oodguard.server.numerals import decimal
from oodguard.server.rpc.wire import Layout, require_few_fields

# Of ModelInferRequest: parameters = 4; inputs = 5, with parameters = 4 and contents = 5, of which uint_contents = 4 and
# bytes_contents = 8 can hold what the model takes; outputs = 6, with parameters = 3.
PARAMETERS = Layout({2: Layout()})
CONTENTS = Layout(only=frozenset({4, 8}))
REQUEST = Layout({4: PARAMETERS, 5: Layout({4: PARAMETERS, 5: CONTENTS}), 6: Layout({3: PARAMETERS})})
# Fields beside the images themselves: names, shapes and parameters.
MOST_FIELDS = 1024


def read(kind: Any, body: bytes) -> Any:
    """A message of this kind. Raises `RequestError` for anything else."""
    try:
        return kind.FromString(body)
    except DecodeError:
        raise RequestError(Code.BAD_BODY, f"the message is not a {kind.DESCRIPTOR.name}") from None


def parse(
    body: bytes, *, served: ModelRef, manifest: Manifest, most_images: int
) -> tuple[oip.InferRequest, list[ParsedImage]]:
    """A serialized `ModelInferRequest` as its message and its images.

    Raises `RequestError` for what cannot be used, and for another model than the one `served`.
    """
    require_few_fields(body, REQUEST, most=MOST_FIELDS + most_images)
    request = read(pb.ModelInferRequest, body)
    oip.require_model(served, request.model_name, request.model_version or None)
    try:
        message = oip.InferRequest(
            id=request.id or None,
            parameters=_parameters(request.parameters),
            inputs=tuple(
                oip.Tensor(name=one.name, shape=tuple(one.shape), datatype=one.datatype) for one in request.inputs
            ),
            outputs=tuple(
                oip.Requested(name=one.name, parameters=_parameters(one.parameters)) for one in request.outputs
            )
            or None,
        )
    except ValidationError as error:
        raise RequestError(Code.BAD_BODY, first_fault(error, whole="message")) from None
    tensor = oip.only_input(message)
    return message, oip.images_of(tensor, _content(request, tensor, manifest, most_images), manifest)


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by name. Clients whose `InferParameter` has no floating point send targets as text."""
    found: dict[str, Any] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind else None
        if name in TARGET_NAMES and isinstance(value, str):
            number = decimal(value)
            value = value if number is None else number
        found[name] = value
    return found


def _content(request: Any, tensor: oip.Tensor, manifest: Manifest, most_images: int) -> oip.Content:
    raw, typed = request.raw_input_contents, request.inputs[0].contents
    if len(raw) > 1 or (raw and typed.ByteSize()):
        raise RequestError(
            Code.BAD_BODY, f"input {tensor.name}: send one entry of raw_input_contents, or contents, and not both"
        )
    if raw:
        return bytes(raw[0])
    if tensor.name == oip.ENCODED and not typed.uint_contents:
        return list(typed.bytes_contents)
    if tensor.name == oip.PIXELS and not typed.bytes_contents:
        numbers = typed.uint_contents
        if len(numbers) > most_images * math.prod(manifest.preprocessing.shape):
            raise RequestError(Code.TOO_MANY_FILES, f"the request holds more than {most_images} images")
        return np.fromiter(numbers, dtype=np.int64, count=len(numbers))
    raise RequestError(
        Code.BAD_BODY,
        f"input {tensor.name}: {oip.ENCODED!r} goes into bytes_contents and {oip.PIXELS!r} into uint_contents",
    )


def encode(message: oip.InferRequest, served: ModelRef, arrays: dict[str, oip.Array]) -> bytes:
    """A serialized `ModelInferResponse`; every output is raw."""
    answer = pb.ModelInferResponse(model_name=served.name, model_version=served.version, id=message.id or "")
    for output in oip.asked(message, arrays):
        values = arrays[output.name]
        answer.outputs.add(name=output.name, datatype=oip.datatype(values), shape=values.shape)
        answer.raw_output_contents.append(oip.to_bytes(values))
    return bytes(answer.SerializeToString())

"""A bundle's graph as bytes that were verified, and that read no other file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from oodguard.core.errors import FormatError
from oodguard.core.manifest import Manifest

# Which fields of ONNX's messages hold messages in which a tensor may be (onnx.proto3); a tensor ends the way.
FIELDS = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14
MAX_DEPTH = 64
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def read_graph(bundle: Path, manifest: Manifest) -> bytes:
    """The bundle's graph, to be loaded from memory: the very bytes whose SHA-256 the manifest has.

    Raises `FormatError` where they are others, and for a graph that keeps weights in other files: no hash covers those.
    """
    path = bundle / manifest.graph
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror or error})") from None
    if hashlib.sha256(data).hexdigest() != manifest.graph_sha256:
        raise FormatError(f"{manifest.graph} in {bundle} was changed after export: its SHA-256 does not match")
    if has_external_data(data):
        raise FormatError(f"{path} keeps weights in other files, which no hash covers; export the bundle again")
    return data


def has_external_data(model: bytes) -> bool:
    """Whether a tensor anywhere in a serialised ONNX model is kept in another file. Raises `FormatError`."""
    try:
        return _external(memoryview(model), "Model", 0)
    except (IndexError, ValueError):
        raise FormatError("the graph is not an ONNX model") from None


def _external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if kind == "Tensor":
        # Either names another file; only one of them is enough for some runtimes.
        return any(number == EXTERNAL_DATA or (number == DATA_LOCATION and value) for number, value in _fields(message))
    inside = FIELDS[kind]
    return any(
        _external(value, inside[number], depth + 1)
        for number, value in _fields(message)
        if number in inside and isinstance(value, memoryview)
    )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protocol buffer message; numbers of fixed width are left out."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = _varint(message, place)
            yield number, value
        elif wire == BYTES:
            length, place = _varint(message, place)
            if place + length > end:
                raise ValueError("a field is longer than its message")
            yield number, message[place : place + length]
            place += length
        elif wire in (FIXED64, FIXED32):
            place += 8 if wire == FIXED64 else 4
        else:
            raise ValueError("not a field of a protocol buffer")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        byte = message[place]
        place += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, place
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")

"""Somebody else's ONNX file: read whole with its external data, checked, and what it says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from oodguard.core.errors import FormatError, InputError

# What one serialised graph can hold; a bundle keeps its network as one file.
MAX_BYTES = (1 << 31) - (1 << 20)
# The first byte of every ONNX file: the number of its format's version follows.
_FIRST = b"\x08"
CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)


@dataclass(frozen=True)
class Foreign:
    """A file as it was read; `model` is this reader's own, with the external data inside."""

    path: Path
    model: Any
    sha256: str
    data: tuple[tuple[str, str], ...]
    """Name and SHA-256 of each file of external data."""

    @property
    def producer(self) -> str:
        """What wrote it, with its version; empty where the file does not say."""
        return f"{self.model.producer_name} {self.model.producer_version}".strip()

    @property
    def opset(self) -> int:
        """Its version of the ai.onnx operators."""
        return opset_of(self.model)

    @property
    def metadata(self) -> dict[str, str]:
        """What it says of itself, by key."""
        return {entry.key: entry.value for entry in self.model.metadata_props}


def opset_of(model: Any) -> int:
    """The version of the operators of ai.onnx, wherever it stands in the list; 0 where it is missing."""
    return next((int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)


def read(path: Path) -> Foreign:
    """The file at `path`.

    Raises `FormatError` where it, or a file of its external data, is missing, cut short or no ONNX, and `InputError`
    where it is too large, or has control flow or anything random.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _too_large(path.name, size)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the path of an ONNX file") from error
    model = _parsed(content, path.name)
    data = _with_external_data(model, path, len(content))
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    for node in model.graph.node:
        if node.op_type in CONTROL_FLOW:
            raise InputError(
                f"{path.name} has control flow: {node.op_type} computes {node.output[0]!r}; export the network without "
                "branches and loops"
            )
        if node.op_type in RANDOM:
            raise InputError(
                f"{path.name} makes {node.output[0]!r} at random ({node.op_type}), so it answers an image differently "
                "each time; export the network in evaluation mode"
            )
    _sort(model.graph)
    return Foreign(path, model, hashlib.sha256(content).hexdigest(), data)


def _sort(graph: Any) -> None:
    """Put each node behind those that it reads, as the format wants it.

    ONNX Runtime's float16 converter leaves its casts in any order, and only the body of a Scan may not have that.
    """
    missing = {name for node in graph.node for name in node.output}
    waiting, ordered = list(graph.node), []
    while waiting:
        later = []
        for node in waiting:
            if missing.isdisjoint(node.input):
                ordered.append(node)
                missing.difference_update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            return
        waiting = later
    copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def _parsed(content: bytes, name: str) -> Any:
    if not content:
        raise FormatError(f"{name} is empty; copy it again")
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        if content.startswith(_FIRST):
            raise FormatError(f"{name} is cut short or damaged; copy or export it again") from error
        raise FormatError(f"{name} is not an ONNX file") from error
    if not content.startswith(_FIRST):
        raise FormatError(f"{name} is not an ONNX file")
    # What follows the network in the file is the list of its operators' versions.
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise FormatError(f"{name} holds no whole network: it is cut short or damaged; copy or export it again")
    if not opset_of(model):
        raise InputError(f"{name} uses no operators of ai.onnx; give the ONNX file of an image classifier")
    return model


def _with_external_data(model: Any, path: Path, size: int) -> tuple[tuple[str, str], ...]:
    """Load what the model keeps in other files; their names and digests."""
    outside = [tensor for tensor in _tensors(model) if uses_external_data(tensor)]
    folder = path.resolve().parent
    files: dict[str, Path] = {}
    for tensor in outside:
        info = ExternalDataInfo(tensor)
        if info.location in files:
            continue
        file = folder / info.location
        if not file.resolve().is_relative_to(folder):
            raise FormatError(
                f"{path.name} keeps {tensor.name!r} in {info.location}, outside its folder; save it with its data "
                "beside it"
            )
        if not file.is_file():
            raise FormatError(
                f"{path.name} keeps its weights in {info.location}, which is missing; put that file into {folder}"
            )
        files[info.location] = file
    sizes = {location: file.stat().st_size for location, file in files.items()}
    if size + sum(sizes.values()) > MAX_BYTES:
        raise _too_large(path.name, size + sum(sizes.values()))
    for tensor in outside:
        info = ExternalDataInfo(tensor)
        if (info.offset or 0) + (info.length or 0) > sizes[info.location]:
            raise FormatError(f"{info.location} is cut short: it ends before {tensor.name!r}; copy it again")
        try:
            load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise FormatError(f"{info.location} cannot be read for {tensor.name!r}; copy it again") from error
        # As onnx's own loader leaves a tensor whose data came in.
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    digests = []
    for location, file in sorted(files.items()):
        with file.open("rb") as stream:
            digests.append((location, hashlib.file_digest(stream, "sha256").hexdigest()))
    return tuple(digests)


def _tensors(model: Any) -> Iterator[Any]:
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            nodes.extend(graph.node)
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)
        nodes = []


def _too_large(name: str, size: int) -> InputError:
    return InputError(
        f"{name} weighs {size / 1e9:.1f} GB with its data, and one ONNX graph holds 2 GB at most; export it in float16"
    )

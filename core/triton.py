"""What our models say about themselves in a Triton model configuration, and what Triton's answers mean.

A Triton configuration belongs to a model and all its versions, so the version is part of every parameter's name:

    oodguard.3.graph_sha256    hash of version 3's ONNX file
    oodguard.3.manifest        its manifest, as JSON, with one golden image
    oodguard.3.golden          that golden image, as base64
    oodguard.3.bank            which training photos its bank holds, as JSON; only of a bundle that has a bank

No Triton client here: parameters are plain text, so that every client and server can use this file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from oodguard.core.bank import Bank
from oodguard.core.codes import Code
from oodguard.core.errors import FormatError
from oodguard.core.explainer import Explainer
from oodguard.core.manifest import Manifest, TensorSpec

PREFIX = "oodguard"
HASH = "graph_sha256"
MANIFEST = "manifest"
GOLDEN = "golden"
BANK = "bank"
DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}

_HASH_KEY = re.compile(rf"^{PREFIX}\.([1-9][0-9]*)\.{HASH}$")


@dataclass(frozen=True, slots=True)
class Described:
    """A model version as its configuration describes it: enough to judge and explain, and one image to check it."""

    manifest: Manifest
    golden: bytes
    bank: Bank | None = None

    @property
    def explainer(self) -> Explainer:
        """What explains the version's answers."""
        return Explainer(self.manifest, self.bank)


def parameter(number: int, name: str) -> str:
    """The name of a parameter of version `number`."""
    return f"{PREFIX}.{number}.{name}"


def describe(number: int, manifest: Manifest, golden: Mapping[str, bytes], bank: bytes | None) -> dict[str, str]:
    """The parameters of one version. Of the `golden` images, by path, the smallest travels along; no thumbnails do.

    bank: the bytes of the bundle's bank, where it has one.
    """
    path = min(golden, key=lambda p: len(golden[p]))
    kept = manifest.model_copy(
        update={
            "golden": tuple(g for g in manifest.golden if g.path == path),
            "files": tuple(f for f in manifest.files if f.path in (manifest.graph, path, manifest.bank)),
            "thumbnails": None,
        }
    )
    named = {} if bank is None else {parameter(number, BANK): bank.decode("utf-8")}
    return named | {
        parameter(number, HASH): manifest.graph_sha256,
        parameter(number, MANIFEST): kept.model_dump_json(),
        parameter(number, GOLDEN): base64.b64encode(golden[path]).decode("ascii"),
    }


def hashes(parameters: Mapping[str, str]) -> dict[int, str]:
    """The graph's SHA-256 of every version that the parameters describe."""
    found = ((_HASH_KEY.match(key), value) for key, value in parameters.items())
    return {int(match.group(1)): value for match, value in found if match}


def require_tensors(manifest: Manifest, tensors: Mapping[str, tuple[str, Sequence[int]]], *, where: str) -> None:
    """Raise `FormatError` unless `tensors`, name to Triton datatype and shape (-1: any), are the manifest's."""
    for spec in (manifest.input, *manifest.outputs):
        datatype, shape = tensors.get(spec.name, ("nothing", ()))
        if datatype != DATATYPES[spec.dtype] or not _fits(spec, shape):
            raise FormatError(
                f"{where} does not fit its manifest: {spec.name} should be {DATATYPES[spec.dtype]} "
                f"{list(spec.shape)} and is {datatype} {list(shape)}"
            )


def _fits(spec: TensorSpec, shape: Sequence[int]) -> bool:
    return len(shape) == len(spec.shape) and all(
        have == -1 or isinstance(want, str) or want == have for want, have in zip(spec.shape, shape, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Configuration:
    """What matters of a Triton model configuration."""

    name: str
    backend: str
    max_batch: int
    parameters: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...]]]

    @classmethod
    def of(cls, config: Any) -> Configuration:
        """From tritonclient's message."""
        batch = (-1,) if config.max_batch_size else ()
        return cls(
            name=config.name,
            backend=config.backend or config.platform,
            max_batch=max(config.max_batch_size, 1),
            parameters={key: value.string_value for key, value in config.parameters.items()},
            tensors={
                tensor.name: (_datatype(tensor), (*batch, *tensor.dims)) for tensor in (*config.input, *config.output)
            },
        )

    def described(self, number: int) -> Described:
        """What the parameters say of version `number`.

        Raises `FormatError`, in one sentence, when they say nothing, or contradict themselves.
        """
        try:
            text = self.parameters[parameter(number, MANIFEST)]
            image = self.parameters[parameter(number, GOLDEN)]
            manifest = Manifest.model_validate_json(text)
            golden = base64.b64decode(image, validate=True)
        except KeyError as error:
            raise FormatError(f"Triton's configuration of {self.name} has no parameter {error.args[0]}") from None
        except (ValidationError, binascii.Error) as error:
            raise FormatError(
                f"the manifest in Triton's configuration of {self.name} is not one of ours "
                f"({str(error).splitlines()[0]})"
            ) from None
        if manifest.graph_sha256 != self.parameters.get(parameter(number, HASH)):
            raise FormatError(
                f"Triton's configuration of {self.name} contradicts itself: {parameter(number, HASH)} is not the hash "
                "in the manifest beside it"
            )
        return Described(manifest, golden, self._bank(number, manifest))

    def _bank(self, number: int, manifest: Manifest) -> Bank | None:
        """The bank of a version. Raises `FormatError` where it is not the one that the manifest lists."""
        if manifest.bank is None:
            return None
        data = self.parameters.get(parameter(number, BANK), "").encode("utf-8")
        wanted = next(ref.sha256 for ref in manifest.files if ref.path == manifest.bank)
        if hashlib.sha256(data).hexdigest() != wanted:
            raise FormatError(
                f"Triton's configuration of {self.name} contradicts itself: {parameter(number, BANK)} is not the bank "
                "in the manifest beside it"
            )
        return Bank.parse(data, where=f"the bank in Triton's configuration of {self.name}")

    def version_of(self, manifest: Manifest, *, pinned: int | None, where: str) -> int:
        """The version that is `manifest`'s graph. Raises `FormatError` when there is none, or it has other tensors."""
        found = hashes(self.parameters)
        same = [number for number, sha256 in found.items() if sha256 == manifest.graph_sha256]
        if not same or (pinned is not None and pinned not in same):
            has = ", ".join(f"version {n} is {sha256[:12]}" for n, sha256 in sorted(found.items())) or "none of ours"
            raise FormatError(
                f"{where} does not serve the graph of {manifest.name} version {manifest.version}: its SHA-256 begins "
                f"{manifest.graph_sha256[:12]}, and Triton's {self.name} has: {has}"
            )
        require_tensors(manifest, self.tensors, where=f"{self.name} on {where}")
        return pinned or max(same)


def _datatype(tensor: Any) -> str:
    field = tensor.DESCRIPTOR.fields_by_name["data_type"]
    return str(field.enum_type.values_by_number[tensor.data_type].name).removeprefix("TYPE_")


def failure_of(status: str, message: str) -> Code:
    """What went wrong, from a gRPC status (`StatusCode.UNAVAILABLE`) and Triton's message.

    Triton says UNAVAILABLE for a full queue, for a request that waited too long in it, for a model that is not there,
    and so does gRPC for a server that is not there: only the message tells them apart.
    """
    code, text = status.rpartition(".")[2], message.lower()
    if code == "DEADLINE_EXCEEDED" or "request timeout expired" in text:
        return Code.DEADLINE_MISSED
    if code == "RESOURCE_EXHAUSTED" or "exceeds maximum queue size" in text:
        return Code.OVERLOADED
    # NOT_FOUND: the model or version is unloaded. CANCELLED: the server ended while it worked on the request.
    return Code.NOT_READY if code in ("UNAVAILABLE", "NOT_FOUND", "CANCELLED") else Code.ENGINE_FAILED

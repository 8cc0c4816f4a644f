"""Writing a network as one ONNX file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional

from oodguard.core.errors import InputError
from oodguard.core.preprocessing import Preprocessing


def export_onnx(
    network: nn.Module,
    preprocessing: Preprocessing,
    target: io.BytesIO,
    *,
    output_names: Sequence[str] = ("features",),
) -> None:
    """Write a network that takes uint8 images as one ONNX file with a dynamic batch axis.

    Raises `InputError` for one with operations that PyTorch cannot write.
    """
    example = torch.zeros(2, *preprocessing.shape, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter warns about its own internals; its result is checked by the callers.
        warnings.simplefilter("ignore")
        try:
            written = _written(network, example, output_names)
        except torch.onnx.OnnxExporterError:
            try:
                written = _written(_with_flat_attention(network, example), example, output_names)
            except torch.onnx.OnnxExporterError as error:
                raise InputError(f"PyTorch cannot write this network as ONNX ({_cause(error)})") from None
    target.write(written)


def _written(network: nn.Module | ExportedProgram, example: Tensor, output_names: Sequence[str]) -> bytes:
    for optimize in (True, False):
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=list(output_names),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
            optimize=optimize,
        )
        assert program is not None
        model = program.model_proto
        if _complete(model.graph):
            break
    return bytes(model.SerializeToString())


def _complete(graph: Any) -> bool:
    """Whether something gives every input of every node: the exporter's optimiser loses bounds of a clamp."""
    given = {value.name for value in (*graph.input, *graph.initializer)}
    given.update(name for node in graph.node for name in node.output)
    return all(not name or name in given for node in graph.node for name in node.input)


def _with_flat_attention(network: nn.Module, example: Tensor) -> ExportedProgram:
    """A network's operations, with all attention of four axes: the exporter takes no other."""
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    flat: ExportedProgram = program.run_decompositions(
        {torch.ops.aten.scaled_dot_product_attention.default: _flat_attention}
    )
    return flat


def _cause(error: BaseException) -> str:
    """What the exporter stopped at, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _flat_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention `[..., tokens, D]` as `[images, heads, tokens, D]`, with all axes before the heads as one."""
    if query.ndim == 4:
        return NotImplemented  # type: ignore[no-any-return]
    shape = (*query.shape[:-1], value.shape[-1])
    mask = attn_mask
    if mask is not None and mask.ndim > 2:
        mask = _of_four_axes(mask.expand(*query.shape[:-3], *mask.shape[-3:]))
    found = functional.scaled_dot_product_attention(
        _of_four_axes(query),
        _of_four_axes(key),
        _of_four_axes(value),
        attn_mask=mask,
        dropout_p=dropout_p,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
    )
    return found.reshape(shape)


def _of_four_axes(part: Tensor) -> Tensor:
    return part.flatten(0, -4) if part.ndim > 4 else part[(None,) * (4 - part.ndim)]

"""Which part of an exported graph is the backbone, and which are the heads: precision is decided part by part."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from oodguard.core.manifest import Precision
from oodguard.export.names import subgraphs

# The one initializer that every fused graph has, and that only the heads' shared first layer reads.
FIRST_LAYER = "heads.wide"
PRODUCTS = ("Conv", "Gemm", "MatMul")
# What graphs of integers have in one form or another, those of ONNX Runtime's own operators among them.
INTEGER = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "ConvInteger", "MatMulInteger", "QLinear", "QGemm")
HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def first_layer(model: onnx.ModelProto) -> onnx.NodeProto:
    """The heads' shared first layer: the product of the pooled feature and the folded weights.

    Raises `ValueError` when the graph is not a fused guard.
    """
    for node in model.graph.node:
        if FIRST_LAYER in node.input:
            return node
    raise ValueError(f"no node reads {FIRST_LAYER}: not a fused guard")


def backbone(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Every node that the pooled feature depends on, in graph order, the normalisation of pixels included."""
    needed = {first_layer(model).input[0]}
    found = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            found.append(node)
    return found[::-1]


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def arithmetic(model: onnx.ModelProto) -> Precision:
    """The lowest precision that a foreign classifier computes in, by its operators and by the types of its tensors."""
    bodies = list(_bodies(model.graph))
    nodes = [node for body in (*bodies, *model.functions) for node in body.node]
    if any(node.op_type.startswith(INTEGER) for node in nodes):
        return "int8"
    kinds = {tensor.data_type for body in bodies for tensor in body.initializer}
    kinds |= {attribute(node, "to", 0) for node in nodes if node.op_type == "Cast"}
    kinds |= {one.t.data_type for node in nodes for one in node.attribute if one.HasField("t")}
    return "fp16" if kinds.intersection(HALF) else "fp32"


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _bodies(inner)

"""Which part of an exported graph is the backbone, and which are the heads: precision is decided part by part."""

from __future__ import annotations

import onnx

# The one initializer that every fused graph has, and that only the heads' shared first layer reads.
FIRST_LAYER = "heads.wide"
PRODUCTS = ("Conv", "Gemm", "MatMul")


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

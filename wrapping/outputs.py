"""The three outputs of a prepared classifier: nodes of ours behind tensors of the file's."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from oodguard.core.classifier import FEATURE_NAME, LOGITS_NAME
from oodguard.core.errors import InputError
from oodguard.core.manifest import PROBABILITIES_NAME
from oodguard.wrapping.file import opset_of
from oodguard.wrapping.graph import Array, Graph, attribute
from oodguard.wrapping.parts import ClassifierParts
from oodguard.wrapping.trace import CONVOLUTIONS, Found, trace

OUTPUTS = (PROBABILITIES_NAME, FEATURE_NAME, LOGITS_NAME)
# In front of the names of nodes and tensors that are ours.
PREFIX = "oodguard."
_ELEMENTS = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}


class Nodes:
    """Nodes behind one tensor, and their constants."""

    def __init__(self, source: str, stem: str) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.at = source
        self._stem = f"{PREFIX}{stem}"

    def constant(self, name: str, value: Array) -> str:
        """Keep a constant; its full name."""
        full = f"{self._stem}.{name}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), full))
        return full

    def add(self, kind: str, *inputs: str, **attributes: Any) -> None:
        """Append a node that reads what is at hand, and `inputs` beside."""
        number = len(self.nodes)
        made = f"{self._stem}.{number}"
        name = f"{self._stem}.{kind.lower()}.{number}"
        self.nodes.append(helper.make_node(kind, [self.at, *inputs], [made], name=name, **attributes))
        self.at = made

    def end(self, name: str) -> None:
        """Call what comes out `name`."""
        self.add("Identity")
        self.nodes[-1].output[0] = name

    def join(self, graph: Any) -> None:
        """Add them to a graph."""
        graph.node.extend(self.nodes)
        graph.initializer.extend(self.constants)


def probabilities(parts: ClassifierParts, source: str) -> Nodes:
    """From the file's own output to probabilities, float32 `[batch, classes]`."""
    nodes = Nodes(source, PROBABILITIES_NAME)
    # Float16 goes through this node first: ONNX Runtime takes a pair of Casts out, and their rounding with it.
    nodes.add("Flatten", axis=1)
    if parts.output_scale is not None:
        scale, zero = parts.output_scale
        dtype = np.dtype(parts.output_dtype)
        nodes.add(
            "DequantizeLinear",
            nodes.constant("scale", np.asarray(scale, dtype=np.float32)),
            nodes.constant("zero", np.asarray(zero, dtype=dtype)),
        )
    elif parts.output_dtype != "float32":
        nodes.add("Cast", to=TensorProto.FLOAT)
    if parts.activation == "none":
        nodes.add("Softmax", axis=1)
    elif parts.is_log:
        nodes.add("Exp")
    nodes.end(PROBABILITIES_NAME)
    return nodes


def as_float(nodes: Nodes, graph: Graph, dtype: str) -> None:
    """Turn the tensor at hand, of this type, into float32."""
    if dtype in _ELEMENTS:
        scales = graph.quantisation(nodes.at)
        if scales is None:
            raise InputError(f"{nodes.at!r} is {dtype} and nothing says its scale; name another tensor")
        nodes.add("DequantizeLinear", *(one for one in scales if one))
    elif dtype != "float32":
        nodes.add("Cast", to=TensorProto.FLOAT)


def feature(parts: ClassifierParts, graph: Graph, found: Found, tap: str, opset: int) -> Nodes:
    """From the feature, or a `tap` with its values, to float32 `[batch, width]`; a map is averaged over its places."""
    nodes = Nodes(tap, FEATURE_NAME)
    as_float(nodes, graph, parts.feature_dtype)
    if int(np.prod(parts.feature_shape)) != parts.width:
        rank = len(parts.feature_shape) + 1
        channel_first = found.layer is None or found.layer.op_type in CONVOLUTIONS
        axes = list(range(2, rank)) if channel_first else list(range(1, rank - 1))
        if channel_first:
            nodes.add("GlobalAveragePool")
        elif opset >= 18:
            nodes.add("ReduceMean", nodes.constant("axes", np.asarray(axes, dtype=np.int64)), keepdims=0)
        else:
            nodes.add("ReduceMean", axes=axes, keepdims=0)
    nodes.add("Flatten", axis=1)
    nodes.end(FEATURE_NAME)
    return nodes


def logits(parts: ClassifierParts, graph: Graph) -> Nodes:
    """From the logits' tensor to float32 `[batch, classes]`."""
    nodes = Nodes(parts.logits, LOGITS_NAME)
    as_float(nodes, graph, parts.logits_dtype)
    nodes.add("Flatten", axis=1)
    nodes.end(LOGITS_NAME)
    return nodes


def copied_logits(parts: ClassifierParts, graph: Graph, found: Found) -> Nodes | None:
    """The logits from the feature, by a float copy of the last layer; None where that layer cannot be copied."""
    copy = _copied_layer(parts, graph, found)
    if copy is None:
        return None
    weight, bias = copy
    nodes = Nodes(FEATURE_NAME, LOGITS_NAME)
    nodes.add("Gemm", nodes.constant("weight", weight), nodes.constant("bias", bias))
    nodes.end(LOGITS_NAME)
    return nodes


def _copied_layer(parts: ClassifierParts, graph: Graph, found: Found) -> tuple[Array, Array] | None:
    """Weights `[width, classes]` and bias of the last layer as float32."""
    node = found.layer
    if node is None or not found.is_plain or found.feature != parts.feature:
        return None
    quantised = node.op_type in ("QGemm", "QLinearMatMul", "QLinearConv")
    weight = graph.value(node.input[3] if quantised else node.input[1])
    bias: Array | None = None
    if weight is None:
        return None
    if quantised:
        weight = _dequantised(weight, graph.value(node.input[4]), graph.value(node.input[5]))
    elif weight.dtype.kind != "f":
        return None
    weight = weight.astype(np.float32)
    if node.op_type in CONVOLUTIONS:
        weight = weight.reshape(len(weight), -1).T
    elif attribute(node, "transB", 0):
        weight = weight.T
    weight = weight * np.float32(attribute(node, "alpha", 1.0))
    third = (node.input[6] if len(node.input) > 6 else "") if node.op_type == "QGemm" else ""
    if not quantised and node.op_type != "MatMul" and len(node.input) > 2:
        third = node.input[2]
    if quantised and third:
        steps = graph.value(node.input[1]), graph.value(node.input[4])
        value = graph.value(third)
        if value is not None and steps[0] is not None and steps[1] is not None:
            bias = value.astype(np.float32) * steps[0].astype(np.float32) * steps[1].astype(np.float32)
    elif third and (value := graph.value(third)) is not None:
        bias = value.astype(np.float32) * np.float32(attribute(node, "beta", 1.0))
    if found.bias and (value := graph.value(found.bias)) is not None:
        bias = value.astype(np.float32).ravel() + (0 if bias is None else bias)
    if weight.shape != (parts.width, parts.classes):
        return None
    full = (
        np.zeros(parts.classes, dtype=np.float32) if bias is None else np.broadcast_to(bias.ravel(), (parts.classes,))
    )
    return np.ascontiguousarray(weight), np.ascontiguousarray(full)


def _dequantised(value: Array, scale: Array | None, zero: Array | None) -> Array:
    shift = np.int32(0) if zero is None else zero.astype(np.int32)
    step = np.float32(1) if scale is None else scale.astype(np.float32)
    return np.asarray((value.astype(np.int32) - shift) * step, dtype=np.float32)


def put_outputs(model: Any, parts: ClassifierParts, *, tap: str, copied: bool) -> bool:
    """Give the model the three outputs in place of its own; False where the logits should be `copied` and cannot be.

    The feature is read at `tap`.

    Raises `InputError` where a tensor has no scale to be read by.
    """
    graph = Graph(model)
    found = trace(graph, parts.output, logits=parts.logits)
    read = copied_logits(parts, graph, found) if copied else logits(parts, graph)
    if read is None:
        return False
    for nodes in (probabilities(parts, parts.output), feature(parts, graph, found, tap, opset_of(model)), read):
        nodes.join(model.graph)
    del model.graph.output[:]
    widths = (parts.classes, parts.width, parts.classes)
    for name, wide in zip(OUTPUTS, widths, strict=True):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", wide]))
    return True

"""Writing a fused graph in operators that other runtimes compute alike.

Some runtimes compute `ReduceLogSumExp` without taking out the largest term first, which is infinite from 89 on; in
others the reductions of logarithms and norms lose their axes. Written out, they have no such choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from oodguard.export.anatomy import attribute

OPSET = 18
IR_VERSION = 8
# Between opset 18 and 20 these took further types of tensors; nothing that a fused graph holds changed its meaning.
SAME_MEANING = frozenset(
    {"Cast", "Constant", "ConstantOfShape", "DequantizeLinear", "Equal", "Identity", "QuantizeLinear"}
    | {"ReduceMax", "ReduceMin", "Reshape", "Shape"}
)


class GraphWriter:
    """Appends nodes and constants under names of one prefix, so that they meet none of the graph's own."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: object, dtype: type[np.generic] = np.float32) -> str:
        """The name of a new constant."""
        name = f"{self.prefix}.constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: int) -> str:
        """The output of a new node."""
        name = f"{self.prefix}.{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output or name], name=name, **attributes))
        return output or name

    def log_sum_exp(self, values: str, axes: str) -> str:
        """log sum exp over `axes`, which are kept with length 1."""
        top = self.add("ReduceMax", values, axes, keepdims=1)
        total = self.add("ReduceSum", self.add("Exp", self.add("Sub", values, top)), axes, keepdims=1)
        return self.add("Add", self.add("Log", total), top)


def portable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in operators that runtimes agree on; at opset 18 where the graph is newer for no reason.

    Changes `model` in place. Only operators that a fused guard has are rewritten.
    """
    graph, opset = model.graph, next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    write = GraphWriter("portable")
    for node in graph.node:
        rewrite = REWRITES.get(node.op_type)
        # Reductions without axes as an input are of graphs older than opset 18.
        if rewrite is None or (node.op_type.startswith("Reduce") and len(node.input) < 2):
            write.nodes.append(node)
        else:
            rewrite(write, node)
    nodes = list(write.nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(write.constants)
    if opset > OPSET and not set(_newer(nodes, opset)) - SAME_MEANING:
        for node in graph.node:
            # It is about conversions to 8-bit floats, which no fused graph has.
            kept = [one for one in node.attribute if one.name != "saturate"]
            del node.attribute[:]
            node.attribute.extend(kept)
        del model.opset_import[:]
        model.opset_import.extend([helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
    return model


def _newer(nodes: list[onnx.NodeProto], opset: int) -> Iterator[str]:
    """The operators whose definition at `opset` is newer than `OPSET`, and those of other domains."""
    for node in nodes:
        if node.domain or onnx.defs.get_schema(node.op_type, opset).since_version > OPSET:
            yield node.op_type


def _reduce(write: GraphWriter, node: onnx.NodeProto, kept: str) -> None:
    """Write `kept`, reduced to length 1, as the node's output: a sum over one element drops the axis exactly."""
    keep = attribute(node, "keepdims", 1)
    write.add("ReduceSum", kept, node.input[1], output=node.output[0], keepdims=keep)


def _log_sum_exp(write: GraphWriter, node: onnx.NodeProto) -> None:
    _reduce(write, node, write.log_sum_exp(node.input[0], node.input[1]))


def _l2(write: GraphWriter, node: onnx.NodeProto) -> None:
    squares = write.add("Mul", node.input[0], node.input[0])
    _reduce(write, node, write.add("Sqrt", write.add("ReduceSum", squares, node.input[1], keepdims=1)))


def _log_softmax(write: GraphWriter, node: onnx.NodeProto) -> None:
    axes = write.constant([attribute(node, "axis", -1)], np.int64)
    low = write.add("Sub", node.input[0], write.add("ReduceMax", node.input[0], axes, keepdims=1))
    total = write.add("ReduceSum", write.add("Exp", low), axes, keepdims=1)
    write.add("Sub", low, write.add("Log", total), output=node.output[0])


REWRITES: dict[str, Callable[[GraphWriter, onnx.NodeProto], None]] = {
    "LogSoftmax": _log_softmax,
    "ReduceL2": _l2,
    "ReduceLogSumExp": _log_sum_exp,
}

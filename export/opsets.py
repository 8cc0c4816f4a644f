"""Writing nodes in another version of ONNX's operators: that of the graph they are appended to.

A foreign graph keeps its version, since in another one its own nodes could mean something else; what is added follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from oodguard.export.anatomy import attribute
from oodguard.export.portable import GraphWriter

OLDEST = 12
DEFAULT_DOMAINS = ("", "ai.onnx")

# Between `OLDEST` and the newest version these took further types of tensors, and attributes whose default is what
# they did before; with float32 and with the integers of indices they mean the same.
SAME_MEANING = frozenset(
    {"Abs", "Add", "ArgMax", "Clip", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Exp", "Expand"}
    | {"Flatten", "Gather", "Gemm", "Greater", "Identity", "Less", "Log", "MatMul", "Max", "Min", "Mul", "Neg"}
    | {"Pow", "Relu", "Sigmoid", "Slice", "Softplus", "Sqrt", "Sub", "Tanh", "TopK", "Transpose", "Where"}
)
# Attributes that newer versions brought, and the values with which a node does what it did without them.
LATER_ATTRIBUTES: Mapping[str, Mapping[str, object]] = {
    "Cast": {"saturate": 1, "round_mode": b"up"},
    "QuantizeLinear": {"saturate": 1, "block_size": 0, "output_dtype": 0, "precision": 0},
    "DequantizeLinear": {"block_size": 0, "output_dtype": 0},
}


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the ai.onnx operators that a model's nodes are written in; `OLDEST` where it has none of them."""
    return next((one.version for one in model.opset_import if one.domain in DEFAULT_DOMAINS), OLDEST)


class Rewriter:
    """Nodes of one version, written in another.

    ```python
    writer = Rewriter(model.graph.initializer, source=18, target=12).rewrite(model.graph.node)
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.constants)
    ```

    Raises `NotImplementedError` for a node that no rule writes: whoever adds an operator to the heads adds its rule.
    """

    def __init__(
        self, constants: Iterable[onnx.TensorProto], *, source: int, target: int, prefix: str = "lowered"
    ) -> None:
        self.source, self.target = source, target
        self.known = {tensor.name: tensor for tensor in constants}
        self.write = GraphWriter(prefix)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes of the new version, in order."""
        return self.write.nodes

    @property
    def constants(self) -> list[onnx.TensorProto]:
        """All constants that the new nodes read."""
        read = {name for node in self.nodes for name in node.input}
        return [tensor for tensor in (*self.known.values(), *self.write.constants) if tensor.name in read]

    def rewrite(self, nodes: Iterable[onnx.NodeProto]) -> Rewriter:
        """Append these nodes, in the new version."""
        for node in nodes:
            self._append(node)
        return self

    def _append(self, node: onnx.NodeProto) -> None:
        kind = node.op_type
        if node.domain not in DEFAULT_DOMAINS:
            raise NotImplementedError(f"{kind} of {node.domain} cannot be written in another opset")
        try:
            before, after = (onnx.defs.get_schema(kind, version) for version in (self.source, self.target))
        except onnx.defs.SchemaError:
            raise NotImplementedError(f"there is no {kind} in opset {self.target}") from None
        if before.since_version == after.since_version:
            self.nodes.append(node)
        elif kind in RULES:
            RULES[kind](self, node, after)
        elif kind in SAME_MEANING:
            self.nodes.append(node)
        else:
            raise NotImplementedError(f"{kind} has no rule for opset {self.target}; add one to export/opsets.py")

    def copy(
        self, node: onnx.NodeProto, *, inputs: Sequence[str] | None = None, without: Iterable[str] = (), **more: object
    ) -> None:
        """Append a copy with other inputs, without some attributes and with others."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        if inputs is not None:
            del made.input[:]
            made.input.extend(inputs)
        kept = [one for one in made.attribute if one.name not in set(without)]
        del made.attribute[:]
        made.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in more.items())])
        self.nodes.append(made)

    def values(self, node: onnx.NodeProto, name: str) -> list[int]:
        """The whole numbers of a constant input. Raises `NotImplementedError` where it is computed."""
        if name not in self.known:
            raise NotImplementedError(f"{node.op_type} computes {name}, which opset {self.target} wants as a constant")
        return [int(value) for value in np.atleast_1d(numpy_helper.to_array(self.known[name]))]


def _axes(to: Rewriter, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    """Axes are an input where the schema has no such attribute. Without any, a reduction takes all axes."""
    if "axes" not in schema.attributes:
        to.nodes.append(node)
        return
    if attribute(node, "noop_with_empty_axes", 0):
        raise NotImplementedError(f"{node.op_type} with noop_with_empty_axes has no meaning in opset {to.target}")
    axes = {"axes": to.values(node, node.input[1])} if len(node.input) > 1 else {}
    to.copy(node, inputs=node.input[:1], without=("noop_with_empty_axes",), **axes)


def _split(to: Rewriter, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    sizes = list(node.input[1:])
    if not sizes and attribute(node, "num_outputs", 0):
        raise NotImplementedError(f"Split by num_outputs is not written in opset {to.target}; give its sizes")
    if sizes and "split" in schema.attributes:
        to.copy(node, inputs=node.input[:1], split=to.values(node, sizes[0]))
    else:
        to.nodes.append(node)


def _shape(to: Rewriter, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    """A part of a shape is a slice of the whole one where `Shape` has no start and end."""
    start = attribute(node, "start", 0)
    end = next((int(one.i) for one in node.attribute if one.name == "end"), None)
    if "start" in schema.attributes:
        to.nodes.append(node)
    elif not start and end is None:
        to.copy(node, without=("start",))
    else:
        stop = np.iinfo(np.int64).max if end is None else end
        bounds = [to.write.constant([bound], np.int64) for bound in (start, stop)]
        to.write.add("Slice", to.write.add("Shape", node.input[0]), *bounds, output=node.output[0])


def _reshape(to: Rewriter, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    """`allowzero` is about shapes with a 0: without one it may be left out."""
    if "allowzero" in schema.attributes:
        to.nodes.append(node)
        return
    if attribute(node, "allowzero", 0) and 0 in to.values(node, node.input[1]):
        raise NotImplementedError(f"Reshape to no elements cannot be written in opset {to.target}")
    to.copy(node, without=("allowzero",))


def _softmax(to: Rewriter, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    """Below opset 13 it is over all axes from `axis` on, which is the same for the last one."""
    if schema.since_version < 13 and attribute(node, "axis", -1) != -1:
        raise NotImplementedError(f"Softmax over another axis than the last is not written in opset {to.target}")
    to.copy(node, without=("axis",), axis=-1)


def _later_attributes(to: Rewriter, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    dropped = []
    for one in node.attribute:
        if one.name in schema.attributes:
            continue
        if helper.get_attribute_value(one) != LATER_ATTRIBUTES[node.op_type].get(one.name):
            raise NotImplementedError(f"{node.op_type} with {one.name} cannot be written in opset {to.target}")
        dropped.append(one.name)
    to.copy(node, without=dropped)


RULES: Mapping[str, Callable[[Rewriter, onnx.NodeProto, onnx.defs.OpSchema], None]] = {
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Squeeze", "Unsqueeze"), _axes),
    **dict.fromkeys(LATER_ATTRIBUTES, _later_attributes),
    "Reshape": _reshape,
    "Shape": _shape,
    "Softmax": _softmax,
    "Split": _split,
}

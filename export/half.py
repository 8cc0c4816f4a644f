"""float16 graphs for GPUs: the backbone in half precision, everything that decides in single."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from oodguard.export.anatomy import PRODUCTS, backbone

LARGEST = float(np.finfo(np.float16).max)


def to_float16(graph: bytes) -> bytes:
    """Convert a fused float32 graph: backbone float16; input uint8, outputs, heads and scores unchanged.

    Pixel normalisation stays float32, and so does everything after the pooled feature: the density scores subtract
    nearly equal numbers, where float16's 11 bits would leave no digits. The same graph gives the same bytes.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph))
    nodes = backbone(model)
    start = next(i for i, node in enumerate(nodes) if node.op_type in PRODUCTS)
    converted = _Conversion(model, {node.output[0] for node in nodes[start:]}).run()
    onnx.checker.check_model(converted)
    return bytes(converted.SerializeToString(deterministic=True))


class _Conversion:
    """Rewrites the nodes that write `half` and casts where they meet the others."""

    def __init__(self, model: onnx.ModelProto, half: set[str]) -> None:
        self.model = model
        self.half = half
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.values = {value.name: value.type.tensor_type for value in (*model.graph.value_info, *model.graph.output)}
        self.nodes: list[onnx.NodeProto] = []
        self.halved: set[str] = set()
        self.known: set[str] = set()

    def run(self) -> onnx.ModelProto:
        """The model, changed in place."""
        graph = self.model.graph
        for node in graph.node:
            for index, name in enumerate(node.input):
                node.input[index] = self._input(name, half=node.output[0] in self.half)
            if node.output[0] in self.half:
                self._outputs(node)
            self.nodes.append(node)
        del graph.node[:]
        graph.node.extend(self.nodes)
        used = {name for node in graph.node for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self.model

    def _input(self, name: str, *, half: bool) -> str:
        if name in self.constants:
            return self._constant(name) if half and self.constants[name].data_type == TensorProto.FLOAT else name
        if half and name not in self.halved and self._is_float(name):
            return self._cast(name, f"{name}_half", TensorProto.FLOAT16)
        if not half and name in self.halved:
            return self._cast(name, f"{name}_single", TensorProto.FLOAT)
        return name

    def _is_float(self, name: str) -> bool:
        return name in self.values and self.values[name].elem_type == TensorProto.FLOAT

    def _constant(self, name: str) -> str:
        made = f"{name}_half"
        if made not in self.known:
            self.known.add(made)
            value = np.clip(numpy_helper.to_array(self.constants[name]), -LARGEST, LARGEST)
            self.model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float16), made))
        return made

    def _cast(self, name: str, made: str, kind: int) -> str:
        if made not in self.known:
            self.known.add(made)
            self.nodes.append(helper.make_node("Cast", [name], [made], name=f"cast_{made}", to=kind))
        return made

    def _outputs(self, node: onnx.NodeProto) -> None:
        for name in node.output:
            if self._is_float(name):
                self.halved.add(name)
                self.values[name].elem_type = TensorProto.FLOAT16
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16

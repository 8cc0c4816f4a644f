"""A graph by its tensors: who makes and who reads one, which depend on the input, and the values of the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
# Operators that read int8 tensors: where the scale and the zero point of what they read, and of what they make, stand.
_MADE_WITH = {"QuantizeLinear": 1, "QLinearMatMul": 6, "QLinearConv": 6, "QGemm": 7, "QLinearGlobalAveragePool": 3}
_READ_WITH = frozenset(
    {
        "DequantizeLinear",
        "QLinearMatMul",
        "QLinearConv",
        "QGemm",
        "QLinearSoftmax",
        "QLinearSigmoid",
        "QLinearGlobalAveragePool",
        "QLinearAdd",
    }
)


class Graph:
    """An index of a model's main graph; the model must not change while it is used."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.graph = model.graph
        self.makers: dict[str, Any] = {}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in self.graph.node:
            for name in node.output:
                if name:
                    self.makers[name] = node
            for name in node.input:
                self.readers[name].append(node)
        self._initializers = {one.name: one for one in self.graph.initializer}
        # Before version 4 of the format, and in some files since, constants are listed as inputs too.
        held = (
            self._initializers.keys() | self.makers.keys() | {one.values.name for one in self.graph.sparse_initializer}
        )
        self.inputs = [one for one in self.graph.input if one.name not in held]
        self.varying = {one.name for one in self.inputs}
        for node in self.graph.node:
            if any(name in self.varying for name in node.input):
                self.varying.update(node.output)
        self._values: dict[str, Array | None] = {}

    def ancestors(self, *names: str) -> set[str]:
        """These tensors and all that they are computed from."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            if name in self.makers:
                waiting.extend(one for one in self.makers[name].input if one)
        return found

    def value(self, name: str) -> Array | None:
        """The value of a tensor that does not depend on the input; None for any other."""
        if name in self.varying or not name:
            return None
        if name not in self._values:
            self._values[name] = self._computed(name)
        return self._values[name]

    def _computed(self, name: str) -> Array | None:
        if name in self._initializers:
            return np.asarray(numpy_helper.to_array(self._initializers[name]))
        if name not in self.makers:
            return None
        reached = self.ancestors(name)
        piece = helper.make_graph(
            [node for node in self.graph.node if any(one in reached for one in node.output)],
            "constant",
            [],
            [helper.make_empty_tensor_value_info(name)],
            [one for one in self.graph.initializer if one.name in reached],
        )
        model = helper.make_model(
            piece, opset_imports=self.model.opset_import, ir_version=max(self.model.ir_version, 4)
        )
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return np.asarray(session.run([name], {})[0])
        except Exception:  # ONNX Runtime raises classes of its own that share no base; without a value, it is unknown.
            return None

    def quantisation(self, name: str) -> tuple[str, str] | None:
        """The names of the scale and the zero point of an int8 tensor; None where nothing says them."""
        maker = self.makers.get(name)
        spots = [(maker, _MADE_WITH[maker.op_type])] if maker is not None and maker.op_type in _MADE_WITH else []
        spots += [(one, 1) for one in self.readers[name] if one.op_type in _READ_WITH and one.input[0] == name]
        for node, at in spots:
            if len(node.input) > at and node.input[at]:
                return node.input[at], node.input[at + 1] if len(node.input) > at + 1 else ""
        return None


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """An attribute's value."""
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def names_of(graph: Any) -> set[str]:
    """The name of every tensor of a graph."""
    found = {one.name for one in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        found.update(node.input, node.output)
    return found


def rename(graph: Any, names: dict[str, str]) -> None:
    """Call tensors otherwise wherever they are made, read or described."""
    for one in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        one.name = names.get(one.name, one.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        for listed in (node.input, node.output):
            for index, name in enumerate(listed):
                if name in names:
                    listed[index] = names[name]


def prune(graph: Any, wanted: Iterable[str]) -> None:
    """Drop every node, weight and description that none of these tensors needs."""
    needed = set(wanted)
    kept = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            needed.update(name for name in node.input if name)
            kept.append(node)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    for listed in (graph.initializer, graph.value_info):
        unused = [index for index, one in enumerate(listed) if one.name not in needed]
        for index in reversed(unused):
            del listed[index]
    made = {name for node in graph.node for name in node.output} | {one.name for one in graph.initializer}
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in made or graph.input[index].name not in needed:
            del graph.input[index]

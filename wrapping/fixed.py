"""What a copy of a classifier settles: values of further inputs, Dropout that was left switched on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from oodguard.wrapping.graph import Array, Graph, attribute


def input_value(one: Any, numbers: Sequence[float]) -> Array:
    """The numbers in the type and the shape that an input declares; one number fills it.

    Raises `ValueError` that says how many it takes.
    """
    kind = one.type.tensor_type
    shape = [max(dim.dim_value, 1) for dim in kind.shape.dim]
    given = np.asarray(numbers, dtype=helper.tensor_dtype_to_np_dtype(kind.elem_type)).ravel()
    count = int(np.prod(shape))
    if given.size not in (1, count):
        raise ValueError(f"takes {count} numbers and was given {given.size}")
    return np.broadcast_to(given, (count,)).reshape(shape).copy()


def settle(model: Any, constants: Mapping[str, Sequence[float]]) -> None:
    """Make these inputs weights of the model."""
    for index in reversed(range(len(model.graph.input))):
        one = model.graph.input[index]
        if one.name in constants:
            model.graph.initializer.append(numpy_helper.from_array(input_value(one, constants[one.name]), one.name))
            del model.graph.input[index]


def still(model: Any) -> tuple[str, ...]:
    """Switch Dropout off wherever it is on in the file; the names of its outputs there."""
    graph = Graph(model)
    found = []
    for node in model.graph.node:
        if node.op_type != "Dropout":
            continue
        # Since version 12 of the operators, the third input switches it on; up to 6, an attribute switched it off.
        mode = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if mode is not None and bool(mode.ravel()[0]):
            del node.input[2:]
            found.append(str(node.output[0]))
        elif attribute(node, "is_test") == 0:
            next(one for one in node.attribute if one.name == "is_test").i = 1
            found.append(str(node.output[0]))
    return tuple(found)

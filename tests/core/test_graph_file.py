"""Whether a graph keeps weights in other files."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from oodguard.core.errors import FormatError
from oodguard.core.graph_file import has_external_data


def weight(name: str, *, outside: bool) -> TensorProto:
    tensor = numpy_helper.from_array(np.ones((2, 2), np.float32), name)
    if outside:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def model(where: str, *, outside: bool) -> bytes:
    """A model with a weight in one of the places where ONNX may have tensors."""
    tensor = weight("w", outside=outside)
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in ("x", "y")]
    node, initializers, functions = helper.make_node("MatMul", ["x", "w"], ["y"]), [], []
    match where:
        case "initializer":
            initializers = [tensor]
        case "constant":
            node = helper.make_node("Constant", [], ["y"], value=tensor)
        case "branch":
            inner = helper.make_graph([helper.make_node("Identity", ["w"], ["z"])], "g", [], [rows[1]], [tensor])
            node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
        case "function":
            body = helper.make_node("Constant", [], ["y"], value=tensor)
            functions = [helper.make_function("own", "F", ["x"], ["y"], [body], [helper.make_opsetid("", 17)])]
            node = helper.make_node("F", ["x"], ["y"], domain="own")
        case "sparse":
            sparse = helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.arange(4), "i"), [2, 2])
            node = helper.make_node("Constant", [], ["y"], sparse_value=sparse)
    graph = helper.make_graph([node], "graph", rows[:1], rows[1:], initializers)
    return helper.make_model(graph, functions=functions).SerializeToString()


@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "function", "sparse"])
def test_weights_in_other_files_are_seen_wherever_the_tensor_is(where: str) -> None:
    assert has_external_data(model(where, outside=True))
    assert not has_external_data(model(where, outside=False))


@pytest.mark.parametrize("data", [b"\x08", b"\x3a\xff\x01", b"\x0b", b"not a model", b"\x3a" + b"\xff" * 11])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="not an ONNX model"):
        has_external_data(data)

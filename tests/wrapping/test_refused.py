"""Files that cannot be wrapped: one sentence each, with the file or the tensor in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from oodguard.core.errors import FormatError, InputError
from oodguard.wrapping.file import read
from oodguard.wrapping.find import find_parts
from tests.wrapping.builders import CLASSES, FLOAT, Net, plain, saved


def refusal(path: Path, kind: type[InputError] = InputError) -> str:
    """The one sentence in which a file is refused."""
    with pytest.raises(InputError) as refused:
        find_parts(path)
    assert type(refused.value) is kind
    text = str(refused.value)
    assert "\n" not in text
    assert path.name.removesuffix(".data") in text or kind is FormatError
    return text


def test_what_is_no_onnx(tmp_path: Path) -> None:
    for content, said in (
        (b"", "net.onnx is empty; copy it again"),
        (b"PK\x03\x04" + bytes(100), "net.onnx is not an ONNX file"),
        (b"import torch\n", "net.onnx is not an ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(200)), "net.onnx is not an ONNX file"),
    ):
        (tmp_path / "net.onnx").write_bytes(content)
        assert refusal(tmp_path / "net.onnx", FormatError) == said
    with pytest.raises(InputError, match=r"none.onnx cannot be read \(No such file or directory\)"):
        find_parts(tmp_path / "none.onnx")


def test_a_file_cut_short_anywhere_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    content = plain().SerializeToString()
    for length in (2, len(content) // 3, len(content) // 2, len(content) - 40, len(content) - 3, len(content) - 1):
        (tmp_path / "net.onnx").write_bytes(content[:length])
        assert "cut short" in refusal(tmp_path / "net.onnx", FormatError)


def test_external_data_that_is_missing_cut_short_or_elsewhere(tmp_path: Path) -> None:
    path = saved(plain(), tmp_path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    data = tmp_path / "net.onnx.data"
    content = data.read_bytes()
    whole = read(path)
    assert [name for name, _ in whole.data] == ["net.onnx.data"]
    assert not any(one.external_data for one in whole.model.graph.initializer)

    data.write_bytes(content[:-8])
    assert refusal(path, FormatError) == "net.onnx.data is cut short: it ends before 'fc.b'; copy it again"
    data.unlink()
    assert refusal(path, FormatError).startswith("net.onnx keeps its weights in net.onnx.data, which is missing; put")

    model = onnx.load(path, load_external_data=False)
    (tmp_path / "elsewhere").write_bytes(content)
    (tmp_path / "inner").mkdir()
    for tensor in model.graph.initializer:
        next(one for one in tensor.external_data if one.key == "location").value = "../elsewhere"
    inner = tmp_path / "inner" / "net.onnx"
    inner.write_bytes(model.SerializeToString())
    assert refusal(inner, FormatError).startswith("net.onnx keeps 'k' in ../elsewhere, outside its folder")


def with_output(make: Any, shape: list[Any], **how: Any) -> Any:
    net = Net(**how)
    make(net)
    return net.model({"out": (FLOAT, shape)})


def test_outputs_that_are_no_row_of_classes(tmp_path: Path) -> None:
    pixels = with_output(lambda net: net.add("Identity", net.body(), to="out"), ["N", 8, 8, 8])
    assert refusal(saved(pixels, tmp_path)).startswith("output 'out' of net.onnx holds logits per pixel [2, 8, 8, 8]; ")
    one = with_output(lambda net: net.add("Sigmoid", net.gemm(net.pooled(), classes=1), to="out"), ["N", 1])
    assert refusal(saved(one, tmp_path)).startswith("output 'out' of net.onnx holds one number per image, fewer than 2")
    boxes = with_output(
        lambda net: net.add("Transpose", net.add("Flatten", net.body(), axis=2), to="out", perm=[0, 1]), ["N", 8]
    )
    boxes = with_output(
        lambda net: net.add("Reshape", net.body(), net.constant("s", [0, 8, -1], np.int64), to="out"), ["N", 8, 64]
    )
    assert refusal(saved(boxes, tmp_path)).startswith(
        "output 'out' of net.onnx is [2, 8, 64], not a row for each image"
    )


def test_a_detector(tmp_path: Path) -> None:
    net = Net()
    at = net.pooled()
    net.add("Reshape", net.gemm(at, classes=40, name="a"), net.constant("s", [0, 10, 4], np.int64), to="boxes")
    net.gemm(at, to="scores", classes=10, name="b")
    model = net.model({"boxes": (FLOAT, ["N", 10, 4]), "scores": (FLOAT, ["N", 10])})
    assert refusal(saved(model, tmp_path)) == (
        "net.onnx has several outputs (boxes [2, 10, 4], scores [2, 10]), as detectors have; give a classifier, or "
        "name a head with --logits"
    )


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (["N", 64], "input 'x' of net.onnx takes no images but ?x64; classifiers of images"),
        (["N", 1, 16, 16], "input 'x' of net.onnx takes greyscale images (?x1x16x16); classifiers of 3 channels"),
        (["N", 4, 16, 16], "input 'x' of net.onnx takes images of other channels (?x4x16x16); classifiers of 3"),
    ],
)
def test_inputs_that_are_no_colour_images(shape: list[Any], said: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Softmax", ["f"], ["out"])]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("out", FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert refusal(saved(model, tmp_path)).startswith(said)


def test_an_input_of_doubles_and_two_images(tmp_path: Path) -> None:
    model = plain()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    assert refusal(saved(model, tmp_path)).startswith(
        "input 'x' of net.onnx takes double; classifiers of uint8, float32"
    )
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("y", FLOAT, ["N", 3, 16, 16]))
    net.gemm(net.pooled(net.body(net.add("Add", "x", "y"))))
    assert refusal(saved(net.model("raw"), tmp_path)).startswith("net.onnx takes several images ('x', 'y')")


def test_a_feature_that_is_too_wide(tmp_path: Path) -> None:
    net = Net()
    wide = 24 * 24 * 64 // 2
    flat = net.add("Flatten", net.body(channels=wide // 64), to="flat")
    net.gemm(flat, width=wide)
    assert refusal(saved(net.model("raw"), tmp_path)) == (
        "feature 'flat' of net.onnx has 18,432 numbers and may have 16,384; name a later tensor with --feature"
    )


def test_control_flow(tmp_path: Path) -> None:
    net = Net()
    net.gemm(net.pooled(), to="a")
    branch = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["inner"])], "b", [], [helper.make_tensor_value_info("inner", FLOAT, None)]
    )
    net.add("If", net.constant("yes", True, bool), to="raw", then_branch=branch, else_branch=branch)
    assert refusal(saved(net.model("raw"), tmp_path)) == (
        "net.onnx has control flow: If computes 'raw'; export the network without branches and loops"
    )


def test_answers_that_are_random(tmp_path: Path) -> None:
    net = Net()
    at = net.gemm(net.pooled(), to="a")
    net.add("Add", at, net.add("RandomNormalLike", at, to="noise"), to="raw")
    assert refusal(saved(net.model("raw"), tmp_path)) == (
        "net.onnx makes 'noise' at random (RandomNormalLike), so it answers an image differently each time; export the "
        "network in evaluation mode"
    )


def test_operators_that_onnx_runtime_does_not_know(tmp_path: Path) -> None:
    net = Net()
    net.add("Spiral", net.gemm(net.pooled(), to="a"), to="raw", domain="com.example")
    text = refusal(saved(net.model("raw", domains={"com.example": 1}), tmp_path))
    assert text.startswith("ONNX Runtime cannot load net.onnx: ")
    assert "Spiral" in text
    assert "ONNXRuntimeError" not in text


def test_maps_of_labels(tmp_path: Path) -> None:
    net = Net()
    net.gemm(net.pooled())
    keys = helper.make_node("ZipMap", ["raw"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=list(range(CLASSES)))
    net.nodes.append(keys)
    model = net.model("raw", domains={"ai.onnx.ml": 2})
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_value_info("maps", kind))
    assert refusal(saved(model, tmp_path)) == (
        "output 'maps' of net.onnx is a sequence or a map, not a tensor; export it without ZipMap"
    )

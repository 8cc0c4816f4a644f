"""Which parts are found in graphs as exporters write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from oodguard.core.errors import InputError
from oodguard.wrapping.find import find_parts
from tests.wrapping.builders import CLASSES, FLOAT, SIDE, WIDTH, Net, plain, saved


def found(model: Any, folder: Path, **how: Any) -> tuple[str, str, str, int, int]:
    """Feature, logits, activation, width and classes."""
    parts = find_parts(saved(model, folder), **how)
    return parts.feature, parts.logits, parts.activation, parts.width, parts.classes


def test_a_plain_classifier_is_said_in_three_lines(tmp_path: Path) -> None:
    parts = find_parts(saved(plain(), tmp_path))
    assert parts.lines() == (
        "input    x: NCHW float32, 16 x 16 pixels, any batch",
        "feature  feat: 8 numbers, then Gemm, Softmax",
        "output   soft: 6 classes, softmax of raw",
    )
    assert (parts.producer, parts.opset, parts.fixed_batch, parts.notes) == ("tests 1", 17, None, ())


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "UINT8"])
def test_layout_and_type_of_the_input(layout: str, kind: str, tmp_path: Path) -> None:
    net = Net(layout=layout, kind=TensorProto.DataType.Value(kind))
    at = net.name if kind == "FLOAT" else net.add("Cast", net.name, to_type=FLOAT, to="f")
    if kind != "FLOAT":
        attribute = net.nodes[-1].attribute[0]
        attribute.name = "to"
    net.gemm(net.pooled(net.body(at)))
    parts = find_parts(saved(net.model("raw"), tmp_path))
    names = {"FLOAT": "float32", "FLOAT16": "float16", "UINT8": "uint8"}
    assert (parts.layout, parts.dtype, parts.size) == (layout, names[kind], (SIDE, SIDE))


def test_a_free_size_and_a_batch_of_minus_one(tmp_path: Path) -> None:
    model = plain(batch=-1)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "s"
    parts = find_parts(saved(model, tmp_path))
    assert (parts.size, parts.fixed_batch, parts.probe) == ((None, None), None, (224, 224))


def test_a_size_that_is_declared_free_and_is_none(tmp_path: Path) -> None:
    net = Net()
    flat = net.add("Flatten", net.body(), to="flat", axis=1)
    net.gemm(flat, width=WIDTH * 16 * 16)
    model = net.model("raw")
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "s"
    parts = find_parts(saved(model, tmp_path))
    assert (parts.size, parts.probe) == ((32, 32), (32, 32))


def test_an_input_that_is_not_square(tmp_path: Path) -> None:
    model = plain()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 24
    assert find_parts(saved(model, tmp_path)).size == (16, 24)


def softmax_in_steps(net: Net, at: str, *, reciprocal: bool) -> str:
    axis = net.constant("axis", [1], np.int64)
    exp = net.add("Exp", net.add("Sub", at, net.add("ReduceMax", at, axes=[1], keepdims=1)))
    total = net.add("ReduceSum", exp, axis, keepdims=0)
    column = net.add("Reshape", total, net.constant("column", [-1, 1], np.int64))
    if reciprocal:
        return net.add("Mul", exp, net.add("Reciprocal", column), to="out")
    return net.add("Div", exp, net.add("Expand", column, net.add("Shape", exp)), to="out")


def sigmoid_in_steps(net: Net, at: str) -> str:
    one = net.constant("one", 1)
    return net.add("Div", one, net.add("Add", net.add("Exp", net.add("Neg", at)), one), to="out")


def logarithm_in_steps(net: Net, at: str) -> str:
    below = net.add("Sub", at, net.add("ReduceMax", at, axes=[1], keepdims=1))
    total = net.add("ReduceSum", net.add("Exp", below), net.constant("axis", [1], np.int64), keepdims=1)
    return net.add("Sub", below, net.add("Log", total), to="out")


ENDS: dict[str, tuple[Callable[[Net, str], str], str]] = {
    "Softmax": (lambda net, at: net.add("Softmax", at, to="out", axis=1), "softmax"),
    "LogSoftmax": (lambda net, at: net.add("LogSoftmax", at, to="out", axis=1), "softmax"),
    "Sigmoid": (lambda net, at: net.add("Sigmoid", at, to="out"), "sigmoid"),
    "softmax in steps": (lambda net, at: softmax_in_steps(net, at, reciprocal=False), "softmax"),
    "softmax by a reciprocal": (lambda net, at: softmax_in_steps(net, at, reciprocal=True), "softmax"),
    "logarithm in steps": (logarithm_in_steps, "softmax"),
    "logarithm by one reduction": (
        lambda net, at: net.add("Sub", at, net.add("ReduceLogSumExp", at, axes=[1], keepdims=1), to="out"),
        "softmax",
    ),
    "sigmoid in steps": (lambda net, at: sigmoid_in_steps(net, at), "sigmoid"),
    "Identity": (lambda net, at: net.add("Identity", net.add("Softmax", net.add("Identity", at)), to="out"), "softmax"),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_makes_probabilities_of_the_logits(end: str, tmp_path: Path) -> None:
    make, activation = ENDS[end]
    net = Net()
    make(net, net.gemm(net.pooled()))
    assert found(net.model("out"), tmp_path) == ("feat", "raw", activation, WIDTH, CLASSES)
    assert find_parts(tmp_path / "net.onnx").is_log == ("log" in end.lower())


def test_logits_alone(tmp_path: Path) -> None:
    net = Net()
    net.gemm(net.pooled())
    assert found(net.model("raw"), tmp_path) == ("feat", "raw", "none", WIDTH, CLASSES)


def constant_as(net: Net, name: str, way: str) -> str:
    """The weight `name`, held in one of the ways that exporters hold weights in."""
    tensor = net.constants.pop()
    assert tensor.name == name
    if way == "Constant":
        return net.add("Constant", to=name, value=tensor)
    if way == "Identity":
        tensor.name = "shared"
        net.constants.append(tensor)
        return net.add("Identity", "shared", to=name)
    if way == "DequantizeLinear":
        value = onnx.numpy_helper.to_array(tensor)
        net.constant("q", np.rint(value * 50).clip(-127, 127), np.int8)
        return net.add("DequantizeLinear", "q", net.constant("s", 0.02), net.constant("z", 0, np.int8), to=name)
    if way == "ConstantOfShape":
        net.constant("shape", tensor.dims, np.int64)
        return net.add("ConstantOfShape", "shape", to=name, value=helper.make_tensor("v", FLOAT, [1], [0.3]))
    value = onnx.numpy_helper.to_array(tensor)
    net.constant("turned", value.T)
    return (
        net.add("Cast", net.add("Transpose", "turned", perm=[1, 0]), to=name)
        if way == "Cast"
        else net.add("Transpose", "turned", to=name, perm=[1, 0])
    )


@pytest.mark.parametrize(
    "way", ["initializer", "Constant", "Identity", "DequantizeLinear", "ConstantOfShape", "Transpose"]
)
@pytest.mark.parametrize("listed", [False, True])
def test_weights_held_in_any_way(way: str, listed: bool, tmp_path: Path) -> None:
    net = Net()
    at = net.pooled()
    weight = net.normal("w", WIDTH, CLASSES, scale=1)
    if way != "initializer":
        weight = constant_as(net, "w", way)
    net.add("Add", net.add("MatMul", at, weight), net.normal("b", CLASSES), to="raw")
    if listed and way == "initializer":
        net.inputs.append(helper.make_tensor_value_info("w", FLOAT, [WIDTH, CLASSES]))
    assert found(net.model("raw"), tmp_path) == ("feat", "raw", "none", WIDTH, CLASSES)


def test_one_by_one_convolutions_and_the_pool_in_either_order(tmp_path: Path) -> None:
    net = Net()
    pool = net.add("GlobalAveragePool", net.body(), to="pool")
    net.add("Flatten", net.add("Conv", pool, net.normal("w", CLASSES, WIDTH, 1, 1), net.normal("b", CLASSES)), to="raw")
    assert found(net.model("raw"), tmp_path) == ("pool", "raw", "none", WIDTH, CLASSES)

    net = Net()
    relu = net.body()
    classes = net.add("Relu", net.add("Conv", relu, net.normal("w", CLASSES, WIDTH, 1, 1)))
    net.add("Softmax", net.add("Flatten", net.add("GlobalAveragePool", classes), to="raw"), to="soft")
    assert found(
        net.model("soft"),
        tmp_path,
    ) == (relu, "raw", "softmax", WIDTH, CLASSES)


def test_a_convolution_over_the_whole_map_reads_all_of_it(tmp_path: Path) -> None:
    net = Net()
    relu = net.body()
    net.add("Flatten", net.add("Conv", relu, net.normal("w", CLASSES, WIDTH, 8, 8)), to="raw")
    assert found(net.model("raw"), tmp_path) == (relu, "raw", "none", WIDTH * 64, CLASSES)


def test_classes_with_axes_of_one_behind_them(tmp_path: Path) -> None:
    net = Net()
    pool = net.add("GlobalAveragePool", net.body(), to="pool")
    net.add("Softmax", net.add("Conv", pool, net.normal("w", CLASSES, WIDTH, 1, 1), to="raw"), to="soft", axis=1)
    model = net.model({"soft": (FLOAT, ["N", CLASSES, 1, 1])})
    assert found(model, tmp_path) == ("pool", "raw", "softmax", WIDTH, CLASSES)


def test_dropout_left_on_is_said_and_the_feature_is_in_front_of_it(tmp_path: Path) -> None:
    net = Net()
    ratio, on = net.constant("ratio", 0.5), net.constant("on", True, bool)
    net.gemm(net.add("Dropout", net.pooled(), ratio, on, to="dropped"))
    parts = find_parts(saved(net.model("raw"), tmp_path))
    assert parts.feature == "feat"
    assert parts.notes == (
        "Dropout is switched on in the file (dropped); it is off in the guarded copy, and the feature is in front of "
        "dropped",
    )


def test_labels_an_embedding_and_the_best_few_beside_the_probabilities(tmp_path: Path) -> None:
    net = Net()
    soft = net.add("Softmax", net.gemm(net.pooled()), to="soft", axis=1)
    net.add("ArgMax", soft, to="label", axis=1)
    net.nodes.append(helper.make_node("TopK", [soft, net.constant("few", [2], np.int64)], ["best", "which"]))
    outputs = {
        "label": (TensorProto.INT64, None),
        "feat": (FLOAT, ["N", WIDTH]),
        "best": (FLOAT, ["N", 2]),
        "which": (TensorProto.INT64, ["N", 2]),
        "raw": (FLOAT, ["N", CLASSES]),
        "soft": (FLOAT, ["N", CLASSES]),
    }
    parts = find_parts(saved(net.model(outputs), tmp_path))
    assert (parts.output, parts.logits, parts.feature) == ("soft", "raw", "feat")


def test_probabilities_are_taken_where_logits_and_logarithms_stand_beside_them(tmp_path: Path) -> None:
    net = Net()
    raw = net.gemm(net.pooled())
    for kind, name in (("LogSoftmax", "a_log"), ("Softmax", "soft")):
        net.add(kind, raw, to=name, axis=1)
    outputs = dict.fromkeys(("a_log", "soft", "raw"), (FLOAT, ["N", CLASSES]))
    assert find_parts(saved(net.model(outputs), tmp_path)).output == "soft"


def test_two_heads_are_refused_until_one_is_named(tmp_path: Path) -> None:
    net = Net()
    at = net.pooled()
    net.gemm(at, to="kind", name="a")
    net.add("Softmax", net.gemm(at, to="colour.raw", name="b", classes=4), to="colour", axis=1)
    path = saved(net.model({"kind": (FLOAT, ["N", CLASSES]), "colour": (FLOAT, ["N", 4])}), tmp_path)
    with pytest.raises(InputError) as refusal:
        find_parts(path)
    assert str(refusal.value) == (
        "net.onnx has several outputs (kind [2, 6], colour [2, 4]), as detectors have; give a classifier, or name a "
        "head with --logits"
    )
    parts = find_parts(path, logits="colour.raw")
    assert (parts.output, parts.activation, parts.feature, parts.classes) == ("colour", "softmax", "feat", 4)


def test_further_inputs_are_asked_for_and_taken(tmp_path: Path) -> None:
    net = Net(layout="NHWC")
    net.inputs += [helper.make_tensor_value_info(name, FLOAT, [1, 1, 1, 3]) for name in ("mean", "variance")]
    shifted = net.add("Div", net.add("Sub", net.name, "mean"), net.add("Sqrt", "variance"))
    net.gemm(net.pooled(net.body(shifted)))
    path = saved(net.model("raw"), tmp_path)
    with pytest.raises(InputError, match=r"'mean', 'variance'\); give the values: --constant mean=... --constant var"):
        find_parts(path)
    with pytest.raises(InputError, match=r"input 'mean' of net.onnx takes 3 numbers and was given 2"):
        find_parts(path, constants={"mean": [1, 2], "variance": [1]})
    with pytest.raises(InputError, match=r"no input 'meen' that needs a value"):
        find_parts(path, constants={"meen": [1], "variance": [1]})
    parts = find_parts(path, constants={"mean": [0.5, 0.25, 0.125], "variance": [4]})
    assert parts.constants == (("mean", (0.5, 0.25, 0.125)), ("variance", (4.0, 4.0, 4.0)))
    assert parts.input == "x"


class Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Noise to calibrate with."""

    def __init__(self, model: Any) -> None:
        random = np.random.default_rng(1)
        self.rows = iter([{"x": random.normal(size=(8, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> Any:
        return next(self.rows, None)


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    return saved(plain(), tmp_path, "float.onnx")


def test_int8_with_quantise_and_dequantise_nodes(float_file: Path, tmp_path: Path) -> None:
    quantize_static(str(float_file), str(tmp_path / "q.onnx"), Pictures(None))
    parts = find_parts(tmp_path / "q.onnx")
    assert parts.feature == "feat_DequantizeLinear_Output"
    assert (parts.logits, parts.width) == ("raw_DequantizeLinear_Output", WIDTH)


def test_int8_operators(float_file: Path, tmp_path: Path) -> None:
    quantize_static(
        str(float_file),
        str(tmp_path / "q.onnx"),
        Pictures(None),
        quant_format=QuantFormat.QOperator,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=False,
    )
    parts = find_parts(tmp_path / "q.onnx")
    assert (parts.feature_dtype, parts.width, parts.classes, parts.activation) == ("uint8", WIDTH, CLASSES, "softmax")
    assert "QGemm" in parts.last


def test_dynamic_int8_has_the_float_feature(tmp_path: Path) -> None:
    net = Net()
    weight = net.pooled()
    net.add(
        "Softmax",
        net.add("Add", net.add("MatMul", weight, net.normal("w", WIDTH, CLASSES)), net.normal("b", CLASSES), to="raw"),
        to="soft",
    )
    quantize_dynamic(str(saved(net.model("soft"), tmp_path)), str(tmp_path / "q.onnx"))
    parts = find_parts(tmp_path / "q.onnx")
    assert (parts.feature, parts.logits, parts.width) == ("feat", "raw", WIDTH)


def test_the_output_as_uint8(tmp_path: Path) -> None:
    net = Net()
    soft = net.add("Softmax", net.gemm(net.pooled()), axis=1)
    net.add("QuantizeLinear", soft, net.constant("s", 1 / 256), net.constant("z", 0, np.uint8), to="scores")
    parts = find_parts(saved(net.model({"scores": (TensorProto.UINT8, ["N", CLASSES])}), tmp_path))
    assert (parts.output_dtype, parts.output_scale, parts.activation, parts.logits) == (
        "uint8",
        (1 / 256, 0),
        "softmax",
        "raw",
    )


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", "{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e', 5: 'f'}"),
        ("character", "a\nb\nc\nd\ne\nf"),
        ("labels", "a, b, c, d, e, f"),
        ("classes", '["a", "b", "c", "d", "e", "f"]'),
        ("id2label", json.dumps({str(index): name for index, name in enumerate("abcdef")})),
        ("config", json.dumps({"id2label": {str(index): name for index, name in enumerate("abcdef")}})),
    ],
)
def test_names_of_classes_in_the_metadata(key: str, text: str, tmp_path: Path) -> None:
    model = plain()
    helper.set_model_props(model, {key: text})
    assert find_parts(saved(model, tmp_path)).class_names == tuple("abcdef")


def test_names_of_another_number_of_classes_are_not_used(tmp_path: Path) -> None:
    model = plain()
    helper.set_model_props(model, {"names": "['a', 'b']"})
    parts = find_parts(saved(model, tmp_path))
    assert parts.class_names == ()
    assert parts.notes == ("the metadata name 2 classes ('names') and the output has 6: not used",)


def test_a_last_layer_that_is_not_found_lists_what_may_be_meant(tmp_path: Path) -> None:
    net = Net()
    at = net.pooled()
    net.add("Max", net.gemm(at, to="one", name="a"), net.gemm(at, to="two", name="b"), to="raw")
    path = saved(net.model("raw"), tmp_path)
    with pytest.raises(InputError) as refusal:
        find_parts(path)
    assert str(refusal.value) == (
        "the last layer of net.onnx was not found behind 'raw'; name it with --feature, one of: t2 [2, 8, 1, 1], "
        "feat [2, 8], one [2, 6], two [2, 6]"
    )
    assert find_parts(path, feature="feat").width == WIDTH


def test_tensors_that_are_not_there_or_elsewhere_are_refused(tmp_path: Path) -> None:
    net = Net()
    net.add("Tanh", net.pooled(), to="aside")
    net.gemm("feat")
    path = saved(net.model("raw"), tmp_path)
    with pytest.raises(
        InputError, match=r"no tensor of net.onnx that depends on the image is called 'fc.w' \(--feature\)"
    ):
        find_parts(path, feature="fc.w")
    with pytest.raises(
        InputError, match=r"'aside' has no part in output 'raw' of net.onnx; name it with --feature, one of"
    ):
        find_parts(path, feature="aside")


def test_opsets_of_other_domains_may_stand_first(tmp_path: Path) -> None:
    net = Net()
    net.gemm(net.pooled())
    model = net.model("raw", domains={"ai.onnx.ml": 2, "com.microsoft": 1}, opset=15)
    assert find_parts(saved(model, tmp_path)).opset == 15

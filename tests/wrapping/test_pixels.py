"""Pixels in front of foreign graphs: the same bits as `network_input` into the graph as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from oodguard.core.classifier import InputType, Layout
from oodguard.core.errors import InputError
from oodguard.core.preprocessing import Preprocessing, network_input
from oodguard.wrapping.pixels import with_pixels

HEIGHT, WIDTH = 20, 28
ELEMENTS = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def classifier(
    layout: Layout, dtype: InputType, *, opset: int = 12, name: str = "x", sizes: tuple[Any, ...] = (HEIGHT, WIDTH)
) -> bytes:
    """A convolution, a mean and a Gemm, behind what an exporter puts in front for the layout and type."""
    rng = np.random.default_rng(0)
    shape = ["N", *sizes, 3] if layout == "NHWC" else ["N", 3, *sizes]
    weights = {
        "conv.w": rng.normal(0, 0.2, (8, 3, 3, 3)),
        "conv.b": rng.normal(0, 0.2, 8),
        "fc.w": rng.normal(0, 0.5, (8, 5)),
        "fc.b": rng.normal(0, 0.2, 5),
    }
    nodes, at = [], name
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [at], ["nchw"], perm=[0, 3, 1, 2]))
        at = "nchw"
    if dtype != "float32":
        nodes.append(helper.make_node("Cast", [at], ["float"], to=TensorProto.FLOAT))
        at = "float"
    nodes += [
        helper.make_node("Conv", [at, "conv.w", "conv.b"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["feature"]),
        helper.make_node("Gemm", ["feature", "fc.w", "fc.b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info(name, ELEMENTS[dtype], shape)],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", width])
            for output, width in (("probabilities", 5), ("feature", 8), ("logits", 5))
        ],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    return bytes(model.SerializeToString())


def outputs(graph: bytes, values: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: values})
    return found


def how(**more: object) -> Preprocessing:
    return Preprocessing.model_validate(
        {"resize": HEIGHT, "crop": HEIGHT, "width": WIDTH, "mean": (0, 0, 0), "std": (1, 1, 1), **more}
    )


CONVENTIONS: dict[str, dict[str, object]] = {
    "0..1": {},
    "ImageNet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "-1..1": {"scale": 127.5, "mean": (1, 1, 1)},
    "half": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "Caffe": {"channels": "bgr", "scale": 1, "mean": (103.939, 116.779, 123.68)},
    "ImageNet in BGR": {"channels": "bgr", "mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229)},
}


@pytest.mark.parametrize("opset", [12, 13, 18, 21, 23])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_graph_answers_pixels_bit_for_bit(layout: Layout, dtype: InputType, convention: str, opset: int) -> None:
    preprocessing = how(**CONVENTIONS[convention])
    graph = classifier(layout, dtype, opset=opset)
    behind = with_pixels(graph, preprocessing, input_name="x", layout=layout, dtype=dtype)
    onnx.checker.check_model(behind, full_check=True)
    rng = np.random.default_rng(1)
    for batch in (1, 8):
        pixels = rng.integers(0, 256, (batch, HEIGHT, WIDTH, 3), dtype=np.uint8)
        expected = outputs(graph, network_input(pixels, preprocessing, layout=layout, dtype=dtype))
        for mine, theirs in zip(outputs(behind, pixels), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_a_graph_that_takes_bytes_gets_bytes(layout: Layout, channels: str) -> None:
    preprocessing = how(channels=channels, scale=1)
    graph = classifier(layout, "uint8")
    behind = with_pixels(graph, preprocessing, input_name="x", layout=layout, dtype="uint8")
    kinds = {node.op_type for node in onnx.load_model_from_string(behind).graph.node if "oodguard" in node.name}
    assert not kinds & {"Cast", "Div", "Sub"}
    for batch in (1, 8):
        pixels = np.random.default_rng(2).integers(0, 256, (batch, HEIGHT, WIDTH, 3), dtype=np.uint8)
        expected = outputs(graph, network_input(pixels, preprocessing, layout=layout, dtype="uint8"))
        for mine, theirs in zip(outputs(behind, pixels), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(InputError, match="takes uint8, so pixels enter it as they are"):
        with_pixels(graph, how(), input_name="x", layout=layout, dtype="uint8")


def test_what_comes_in_is_declared_and_all_names_are_ours() -> None:
    behind = onnx.load_model_from_string(
        with_pixels(classifier("NCHW", "float32"), how(channels="bgr"), input_name="x", layout="NCHW", dtype="float32")
    )
    (images,) = behind.graph.input
    dims = [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim]
    assert (images.name, images.type.tensor_type.elem_type) == ("images", TensorProto.UINT8)
    assert dims == ["batch", HEIGHT, WIDTH, 3]
    assert [one.name for one in behind.graph.output] == ["probabilities", "feature", "logits"]
    front = [node for node in behind.graph.node if node.output[0] == "x" or node.output[0].startswith("oodguard.")]
    assert [node.op_type for node in front] == ["Transpose", "Gather", "Cast", "Div"]
    assert all(node.name.startswith("oodguard.") for node in front)
    assert behind.opset_import[0].version == 12


def test_an_input_that_is_called_images_already_is_renamed_in_bodies_too() -> None:
    """The body of an If reads the graph's own input from outside."""
    model = onnx.load_model_from_string(classifier("NCHW", "float32", name="images"))
    then, other = (
        helper.make_graph(
            [helper.make_node(kind, ["images"], [kind])],
            kind,
            [],
            [helper.make_tensor_value_info(kind, TensorProto.FLOAT, None)],
        )
        for kind in ("Neg", "Identity")
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.insert(0, helper.make_node("If", ["yes"], ["turned"], then_branch=then, else_branch=other))
    next(node for node in model.graph.node if node.op_type == "Conv").input[0] = "turned"
    graph = model.SerializeToString()
    pixels = np.random.default_rng(3).integers(0, 256, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)
    behind = with_pixels(graph, how(), input_name="images", layout="NCHW", dtype="float32")
    expected = outputs(graph, network_input(pixels, how(), layout="NCHW"))
    for mine, theirs in zip(outputs(behind, pixels), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_tensor_inside_that_is_called_images_is_renamed() -> None:
    model = onnx.load_model_from_string(classifier("NCHW", "float32"))
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "images"
    behind = with_pixels(model.SerializeToString(), how(), input_name="x", layout="NCHW", dtype="float32")
    pixels = np.random.default_rng(4).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    expected = outputs(classifier("NCHW", "float32"), network_input(pixels, how(), layout="NCHW"))
    np.testing.assert_array_equal(outputs(behind, pixels)[0], expected[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_name": "y"}, "no input 'y'"),
        ({"dtype": "float16"}, "input x takes float32, not float16"),
        ({"layout": "NHWC"}, r"input x takes \? x 3 x 20 x 28, and the preprocessing gives 20 x 28 x 3 \(NHWC\)"),
        ({"preprocessing": how(width=24)}, r"takes \? x 3 x 20 x 28, and the preprocessing gives 3 x 20 x 24 \(NCHW\)"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"preprocessing": how(), "input_name": "x", "layout": "NCHW", "dtype": "float32", **change}
    preprocessing = given.pop("preprocessing")
    with pytest.raises(InputError, match=message):
        with_pixels(classifier("NCHW", "float32"), preprocessing, **given)


def test_an_old_graph_and_an_output_called_images_are_refused() -> None:
    with pytest.raises(InputError, match="opset 11, and pixels can be put in front of 12 or newer"):
        with_pixels(classifier("NCHW", "float32", opset=11), how(), input_name="x", layout="NCHW", dtype="float32")
    model = onnx.load_model_from_string(classifier("NCHW", "float32"))
    model.graph.output[1].name = model.graph.node[3].output[0] = model.graph.node[4].input[0] = "images"
    with pytest.raises(InputError, match="an output of the graph is called images"):
        with_pixels(model.SerializeToString(), how(), input_name="x", layout="NCHW", dtype="float32")


def test_a_graph_of_any_size_is_bound_to_the_preprocessings() -> None:
    graph = classifier("NHWC", "float32", sizes=("h", None))
    behind = with_pixels(graph, how(), input_name="x", layout="NHWC", dtype="float32")
    shape = onnx.load_model_from_string(behind).graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim[1:]] == [HEIGHT, WIDTH, 3]


@pytest.mark.parametrize(("layout", "sides"), [("NHWC", (1, 2)), ("NCHW", (2, 3))])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_of_any_size_is_not_told_its_size(layout: Layout, sides: tuple[int, int], batch: int) -> None:
    # A runtime that knows height and width optimises the network otherwise, and the last bits change.
    graph = classifier(layout, "float32", sizes=("h", None))
    behind = with_pixels(graph, how(), input_name="x", layout=layout, dtype="float32")
    inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(behind), strict_mode=True, data_prop=True)
    told = {one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in inferred.graph.value_info}
    assert [told["x"][axis] for axis in sides] == [0, 0]
    pixels = np.random.default_rng(0).integers(0, 256, (batch, HEIGHT, WIDTH, 3), dtype=np.uint8)
    given = network_input(pixels, how())
    given = np.ascontiguousarray(given if layout == "NHWC" else given.transpose(0, 3, 1, 2))
    found, own = (
        ort.InferenceSession(one, providers=["CPUExecutionProvider"]).run(None, feed)
        for one, feed in ((behind, {"images": pixels}), (graph, {"x": given}))
    )
    assert [one.tobytes() for one in found] == [one.tobytes() for one in own]


def test_a_float16_network_gets_rounded_pixels_where_a_runtime_computes_it_in_float32() -> None:
    """ONNX Runtime drops a cast to float16 in front of a network that it runs in float32, and its rounding."""
    rng = np.random.default_rng(3)
    weight = numpy_helper.from_array(rng.normal(size=(6, 3, 5, 5)).astype(np.float16), "weight")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "weight"], ["map"]),
            helper.make_node("Relu", ["map"], ["kept"]),
            helper.make_node("GlobalAveragePool", ["kept"], ["mean"]),
            helper.make_node("Cast", ["mean"], ["y"], to=TensorProto.FLOAT),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 3, 24, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, 1, 1])],
        [weight],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    how = Preprocessing(resize=24, crop=24, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    made = with_pixels(plain, how, input_name="x", layout="NCHW", dtype="float16")
    images = rng.integers(0, 256, (8, 24, 24, 3), dtype=np.uint8)
    given = network_input(images, how, layout="NCHW", dtype="float16")
    before = ort.InferenceSession(plain, providers=["CPUExecutionProvider"])
    after = ort.InferenceSession(made, providers=["CPUExecutionProvider"])
    for rows in (slice(0, 1), slice(0, 8)):
        wanted = before.run(None, {"x": given[rows]})[0]
        found = after.run(None, {"images": images[rows]})[0]
        assert wanted.tobytes() == found.tobytes()

"""Prepared copies of classifiers: their own probabilities bit for bit, in any batch, with feature and logits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

from oodguard.core.errors import InputError
from oodguard.wrapping.find import find_parts
from oodguard.wrapping.prepare import Prepared, prepare
from oodguard.wrapping.probe import images
from tests.wrapping.builders import CLASSES, FLOAT, SIDE, WIDTH, Net, plain, saved
from tests.wrapping.test_find import ENDS, Pictures

Array = npt.NDArray[Any]


def session(graph: bytes | Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = str(graph) if isinstance(graph, Path) else graph
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def prepared_of(path: Path, **how: Any) -> Prepared:
    return prepare(path, find_parts(path, **how))


def outputs(made: Prepared, pixels: Array) -> tuple[Array, Array, Array]:
    of = session(made.graph)
    assert [one.name for one in of.get_outputs()] == ["probabilities", "feature", "logits"]
    assert [one.name for one in of.get_inputs()] == [made.input]
    probabilities, feature, logits = of.run(None, {made.input: pixels})
    return probabilities, feature, logits


def pictures(made: Prepared, count: int = 8, seed: int = 3) -> Array:
    return images(count, made.parts.probe, layout=made.parts.layout, dtype=made.parts.dtype, seed=seed)


def own(path: Path, made: Prepared, pixels: Array, *, batch: int | None = None) -> Array:
    """What the file itself answers, in pieces of `batch`."""
    of = session(path)
    size = batch or len(pixels)
    pieces = [pixels[at : at + size] for at in range(0, len(pixels), size)]
    return np.concatenate([of.run([made.parts.output], {made.parts.input: one})[0] for one in pieces])


def softmax(values: Array) -> Array:
    shifted = np.exp(values.astype(np.float64) - values.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def test_a_plain_classifier_keeps_its_bits_in_batches_of_1_and_8(tmp_path: Path) -> None:
    path = saved(plain(), tmp_path)
    made = prepared_of(path)
    assert (made.batch, made.notes) == ("dynamic", ())
    for count in (1, 8):
        pixels = pictures(made, count)
        probabilities, feature, logits = outputs(made, pixels)
        assert probabilities.tobytes() == own(path, made, pixels).tobytes()
        assert feature.shape == (count, WIDTH)
        assert np.allclose(softmax(logits), probabilities, atol=1e-6)
    model = onnx.load_from_string(made.graph)
    weight, bias = (
        next(onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.name == name)
        for name in ("fc.w", "fc.b")
    )
    assert np.allclose(feature @ weight.T + bias, logits, atol=1e-5)


@pytest.mark.parametrize("end", ENDS)
def test_probabilities_of_every_end(end: str, tmp_path: Path) -> None:
    net = Net()
    ENDS[end][0](net, net.gemm(net.pooled()))
    path = saved(net.model("out"), tmp_path)
    made = prepared_of(path)
    pixels = pictures(made)
    probabilities, _, logits = outputs(made, pixels)
    answer = own(path, made, pixels)
    if "log" in end.lower():
        assert np.allclose(probabilities, np.exp(answer), rtol=1e-6)
    else:
        assert probabilities.tobytes() == answer.tobytes()
    expected = 1 / (1 + np.exp(-logits.astype(np.float64))) if "igmoid" in end else softmax(logits)
    assert np.allclose(probabilities, expected, atol=1e-6)


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """ONNX Runtime runs such files, its own float16 converter writes them, and the body of a Scan may not be one."""
    model = plain(batch=1)
    copies = [type(node).FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    path = saved(model, tmp_path)
    made = prepared_of(path)
    onnx.checker.check_model(made.graph)
    pixels = pictures(made)
    each = np.concatenate([own(path, made, pixels[place : place + 1]) for place in range(len(pixels))])
    assert np.allclose(outputs(made, pixels)[0], each, atol=1e-6)


def test_logits_get_a_softmax(tmp_path: Path) -> None:
    net = Net()
    net.gemm(net.pooled())
    path = saved(net.model("raw"), tmp_path)
    made = prepared_of(path)
    pixels = pictures(made)
    probabilities, _, logits = outputs(made, pixels)
    assert logits.tobytes() == own(path, made, pixels).tobytes()
    assert np.allclose(probabilities, softmax(logits), atol=1e-6)


def test_a_uint8_output_is_divided_by_its_scale(tmp_path: Path) -> None:
    net = Net()
    soft = net.add("Softmax", net.gemm(net.pooled()), axis=1)
    net.add("QuantizeLinear", soft, net.constant("s", 1 / 256), net.constant("z", 0, np.uint8), to="scores")
    path = saved(net.model({"scores": (TensorProto.UINT8, ["N", CLASSES])}), tmp_path)
    made = prepared_of(path)
    pixels = pictures(made)
    assert np.array_equal(outputs(made, pixels)[0], own(path, made, pixels).astype(np.float32) / 256)


def test_float16_inside_and_outside(tmp_path: Path) -> None:
    net = Net(kind=TensorProto.FLOAT16)
    at = net.pooled(net.body(dtype=np.float16))
    raw = net.add("MatMul", at, net.normal("w", WIDTH, CLASSES, scale=1, dtype=np.float16), to="raw")
    net.add("Softmax", raw, to="soft", axis=1)
    path = saved(net.model({"soft": (TensorProto.FLOAT16, ["N", CLASSES])}), tmp_path)
    made = prepared_of(path)
    pixels = pictures(made)
    pixels = np.clip(pixels, -4, 4)
    probabilities, feature, logits = outputs(made, pixels)
    assert np.array_equal(probabilities, own(path, made, pixels).astype(np.float32))
    assert {one.dtype for one in (probabilities, feature, logits)} == {np.dtype(np.float32)}


def test_convolution_heads_give_rows(tmp_path: Path) -> None:
    net = Net()
    relu = net.body()
    classes = net.add("Conv", relu, net.normal("w", CLASSES, WIDTH, 1, 1, scale=1))
    net.add("Flatten", net.add("GlobalAveragePool", classes), to="raw")
    path = saved(net.model("raw"), tmp_path)
    made = prepared_of(path)
    probabilities, feature, logits = outputs(made, pictures(made))
    assert (probabilities.shape, feature.shape) == ((8, CLASSES), (8, WIDTH))
    weight = next(onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer if one.name == "w")
    assert np.allclose(feature @ weight.reshape(CLASSES, WIDTH).T, logits, rtol=1e-3, atol=1e-3)


def test_live_dropout_is_off_in_the_copy(tmp_path: Path) -> None:
    net = Net()
    ratio, on = net.constant("ratio", 0.5), net.constant("on", True, bool)
    net.gemm(net.add("Dropout", net.pooled(), ratio, on, to="dropped"))
    path = saved(net.model("raw"), tmp_path)
    made = prepared_of(path, feature="dropped")
    pixels = pictures(made)
    first, second = outputs(made, pixels), outputs(made, pixels)
    assert all(one.tobytes() == two.tobytes() for one, two in zip(first, second, strict=True))
    assert first[2].tobytes() == own(path, made, pixels).tobytes()


def fixed(target: list[int] | None, *, batch: int = 1) -> Any:
    net = Net(batch=batch)
    pool = net.add("GlobalAveragePool", net.body())
    net.gemm(
        net.add("Flatten", pool, to="feat")
        if target is None
        else net.add("Reshape", pool, net.constant("s", target, np.int64), to="feat")
    )
    return net.model("raw")


@pytest.mark.parametrize("target", [None, [1, WIDTH], [1, -1], [-1, WIDTH]])
def test_a_fixed_batch_is_opened(target: list[int] | None, tmp_path: Path) -> None:
    path = saved(fixed(target), tmp_path)
    made = prepared_of(path)
    assert made.batch == "made dynamic"
    pixels = pictures(made)
    assert outputs(made, pixels)[2].tobytes() == own(path, made, pixels, batch=1).tobytes()


def test_a_batch_that_several_nodes_hold_to_runs_one_by_one(tmp_path: Path) -> None:
    net = Net(batch=1)
    pool = net.add("Reshape", net.add("GlobalAveragePool", net.body()), net.constant("s", [-1], np.int64))
    picked = net.add("Gather", pool, net.constant("at", [list(range(WIDTH))], np.int64), to="feat")
    net.add("Softmax", net.gemm(picked), to="soft")
    path = saved(net.model("soft"), tmp_path)
    made = prepared_of(path)
    assert made.batch == "one by one"
    assert made.notes == ("images run one by one: it takes batches of 1 only, and gives no right answers in others",)
    for count in (1, 5):
        pixels = pictures(made, count)
        probabilities, feature, logits = outputs(made, pixels)
        assert probabilities.tobytes() == own(path, made, pixels, batch=1).tobytes()
        assert (feature.shape, logits.shape) == ((count, WIDTH), (count, CLASSES))


@pytest.mark.parametrize("target", [[4, WIDTH], [2, 2 * WIDTH]])
def test_a_fixed_batch_of_several(target: list[int], tmp_path: Path) -> None:
    model = fixed([4, WIDTH], batch=4)
    if target[0] == 2:
        net = Net(batch=4)
        pairs = net.add(
            "Reshape", net.add("GlobalAveragePool", net.body()), net.constant("s", [2, 2 * WIDTH], np.int64)
        )
        net.gemm(net.add("Reshape", pairs, net.constant("r", [4, WIDTH], np.int64), to="feat"))
        model = net.model("raw")
    path = saved(model, tmp_path)
    made = prepared_of(path)
    assert made.batch == ("made dynamic" if target[0] == 4 else "one by one")
    pixels = pictures(made, 8)
    assert outputs(made, pixels)[2].tobytes() == own(path, made, pixels, batch=4).tobytes()


@pytest.mark.parametrize("opset", [12, 13, 17, 21])
def test_rows_that_influence_each_other_run_one_by_one(opset: int, tmp_path: Path) -> None:
    net = Net()
    at = net.pooled()
    if opset < 18:
        mean = net.add("ReduceMean", at, axes=[0], keepdims=1)
    else:
        mean = net.add("ReduceMean", at, net.constant("a", [0], np.int64), keepdims=1)
    net.add(
        "Softmax", net.gemm(net.add("Sub", at, net.add("Mul", mean, net.constant("half", 0.5)), to="mixed")), to="soft"
    )
    path = saved(net.model("soft", opset=opset), tmp_path)
    made = prepared_of(path)
    assert made.batch == "one by one"
    assert made.notes == ("images run one by one: it takes batches, but their images influence each other",)
    pixels = pictures(made)
    assert outputs(made, pixels)[0].tobytes() == own(path, made, pixels, batch=1).tobytes()


def test_dynamic_int8_runs_one_by_one(tmp_path: Path) -> None:
    net = Net()
    product = net.add("MatMul", net.pooled(), net.normal("w", WIDTH, CLASSES))
    net.add("Softmax", net.add("Add", product, net.normal("b", CLASSES), to="raw"), to="soft")
    quantize_dynamic(str(saved(net.model("soft"), tmp_path)), str(tmp_path / "q.onnx"))
    made = prepared_of(tmp_path / "q.onnx")
    assert made.batch == "one by one"
    pixels = pictures(made)
    assert outputs(made, pixels)[0].tobytes() == own(tmp_path / "q.onnx", made, pixels, batch=1).tobytes()


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_static_int8_keeps_its_bits(form: QuantFormat, tmp_path: Path) -> None:
    source, path = saved(plain(), tmp_path, "float.onnx"), tmp_path / "q.onnx"
    quantize_static(
        str(source),
        str(path),
        Pictures(None),
        quant_format=form,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    made = prepared_of(path)
    assert made.batch == "dynamic"
    for count in (1, 8):
        pixels = pictures(made, count)
        probabilities, feature, logits = outputs(made, pixels)
        assert probabilities.tobytes() == own(path, made, pixels).tobytes()
        assert (feature.shape, logits.shape) == ((count, WIDTH), (count, CLASSES))
        # Within the steps of an int8 softmax.
        assert np.allclose(softmax(logits), probabilities, atol=0.05)


@pytest.mark.parametrize("opset", [7, 9, 11])
def test_older_operators_are_converted(opset: int, tmp_path: Path) -> None:
    net = Net()
    net.add("Softmax", net.gemm(net.pooled()), to="soft", axis=1)
    net.add("Identity", "soft", to="out")
    path = saved(net.model("out", opset=opset, ir=4, metadata={"author": "somebody"}), tmp_path)
    made = prepared_of(path)
    model = onnx.load_from_string(made.graph)
    assert {one.domain: one.version for one in model.opset_import} == {"": 12}
    assert (model.producer_name, {one.key: one.value for one in model.metadata_props}) == (
        "tests",
        {"author": "somebody"},
    )
    pixels = pictures(made)
    assert outputs(made, pixels)[0].tobytes() == own(path, made, pixels).tobytes()
    assert made.record().opset == opset


def test_names_of_ours_in_the_file_give_way(tmp_path: Path) -> None:
    net = Net(name="feature")
    relu = net.add("Relu", net.body(), to="images")
    raw = net.gemm(net.pooled(relu, to="probabilities"), to="oodguard.probabilities.0")
    net.add("Softmax", raw, to="logits", axis=1)
    path = saved(net.model("logits"), tmp_path)
    made = prepared_of(path)
    assert made.input == "own.feature"
    assert (made.record().input, made.record().feature, made.record().output) == ("feature", "probabilities", "logits")
    pixels = pictures(made)
    assert outputs(made, pixels)[0].tobytes() == own(path, made, pixels).tobytes()


def test_constants_become_weights_of_the_copy(tmp_path: Path) -> None:
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("mean", FLOAT, [1, 3, 1, 1]))
    net.gemm(net.pooled(net.body(net.add("Sub", "x", "mean"))))
    path = saved(net.model("raw"), tmp_path)
    made = prepared_of(path, constants={"mean": [0.1, 0.2, 0.3]})
    pixels = pictures(made)
    mean = np.asarray([0.1, 0.2, 0.3], dtype=np.float32).reshape(1, 3, 1, 1)
    expected = session(path).run(["raw"], {"x": pixels, "mean": mean})[0]
    assert outputs(made, pixels)[2].tobytes() == expected.tobytes()


def test_external_data_comes_inside_and_the_files_stay_as_they_were(tmp_path: Path) -> None:
    path = saved(plain(), tmp_path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    before = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in tmp_path.iterdir()}
    made = prepared_of(path)
    assert {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in tmp_path.iterdir()} == before
    assert (made.parts.sha256, made.parts.data) == (before["net.onnx"], (("net.onnx.data", before["net.onnx.data"]),))
    pixels = pictures(made)
    assert outputs(made, pixels)[0].tobytes() == own(path, made, pixels).tobytes()


def test_a_file_that_changed_since_its_parts_were_found_is_refused(tmp_path: Path) -> None:
    path = saved(plain(), tmp_path)
    parts = find_parts(path)
    saved(fixed(None), tmp_path)
    with pytest.raises(InputError, match=r"net.onnx changed while it was read; start again"):
        prepare(path, parts)


def test_what_the_guarded_copy_does_not_need_is_left_out(tmp_path: Path) -> None:
    net = Net()
    net.add("Softmax", net.gemm(net.pooled()), to="soft", axis=1)
    net.add("ArgMax", "soft", to="label", axis=1)
    path = saved(net.model({"label": (TensorProto.INT64, None), "soft": (FLOAT, ["N", CLASSES])}), tmp_path)
    kinds = {node.op_type for node in onnx.load_from_string(prepared_of(path).graph).graph.node}
    assert "ArgMax" not in kinds
    assert prepared_of(path).parts.size == (SIDE, SIDE)

"""Small foreign classifiers as `wrap` leaves them: `images` to `probabilities`, `feature` and `logits`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from oodguard.core.classifier import CLASSIFIER_FILE, FEATURE_NAME, LOGITS_NAME, Activation, ClassifierRecord
from oodguard.core.files import file_sha256
from oodguard.core.manifest import INPUT_NAME, PROBABILITIES_NAME
from oodguard.core.preprocessing import Preprocessing, load_pixels
from oodguard.export.graph import session
from oodguard.export.opsets import opset_of
from oodguard.training.compute import cpu_threads
from oodguard.training.heads.guard import GuardHeads, fit_heads
from oodguard.training.heads.rows import Rows
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import load_photos
from oodguard.training.wrapped import Wrapped

SIDE, WIDTH, CLASSES = 16, 24, 5


@dataclass
class Writer:
    """Collects nodes and weights of a graph."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def weight(self, name: str, value: object, dtype: type = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str, **more: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"node of {output}", **more))
        return output


OUTPUTS = ((PROBABILITIES_NAME, CLASSES), (FEATURE_NAME, WIDTH), (LOGITS_NAME, CLASSES))


def model_of(write: Writer, *, opset: int, ir_version: int = 7, domains: Sequence[str] = ()) -> onnx.ModelProto:
    """A checked model of what was written, with metadata and a producer of its own."""
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in OUTPUTS]
    images = helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", SIDE, SIDE, 3])
    # Before version 4 of the file format every weight was an input, too.
    weights = [helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in write.weights]
    inputs = [images, *(weights if ir_version < 4 else [])]
    model = helper.make_model(
        helper.make_graph(write.nodes, "foreign", inputs, outputs, write.weights),
        opset_imports=[*(helper.make_opsetid(domain, 1) for domain in domains), helper.make_opsetid("", opset)],
        ir_version=ir_version,
        producer_name="somebody",
    )
    helper.set_model_props(model, {"names": "{0: 'a', 1: 'b'}"})
    onnx.checker.check_model(model, full_check=not domains)
    return model


def scaled_pixels(write: Writer, images: str = INPUT_NAME) -> str:
    """Float pixels `[B, 3, H, W]`, 0 to 1."""
    write.weight("scale", 255.0)
    pixels = write.add("Div", [write.add("Cast", [images], "float", to=TensorProto.FLOAT), "scale"], "scaled")
    return write.add("Transpose", [pixels], "pixels", perm=[0, 3, 1, 2])


def pooled(write: Writer, pixels: str, output: str = FEATURE_NAME) -> str:
    """Two convolutions and global pooling, with inner tensors that are called what the guard's outputs are called."""
    rng = np.random.default_rng(0)
    write.weight("conv1", rng.normal(0, 0.3, (8, 3, 3, 3)))
    write.weight("conv2", rng.normal(0, 0.2, (WIDTH, 8, 3, 3)))
    first = write.add("Relu", [write.add("Conv", [pixels, "conv1"], "scores", pads=[1, 1, 1, 1])], "distances")
    second = write.add("Conv", [first, "conv2"], "guard.heads.wide", pads=[1, 1, 1, 1])
    mean = write.add("GlobalAveragePool", [write.add("Relu", [second], "label")], "accept")
    return write.add("Flatten", [mean], output)


def last_layer(write: Writer, feature: str, output: str = LOGITS_NAME) -> str:
    """The logits of a feature."""
    rng = np.random.default_rng(1)
    write.weight("last", rng.normal(0, 1.0, (CLASSES, WIDTH)))
    write.weight("bias", rng.normal(0, 0.1, CLASSES))
    return write.add("Gemm", [feature, "last", "bias"], output, transB=1)


def plain(opset: int, *, ir_version: int = 7, activation: str = "Softmax") -> onnx.ModelProto:
    """A convolutional classifier as most are."""
    write = Writer()
    write.add(activation, [last_layer(write, pooled(write, scaled_pixels(write)))], PROBABILITIES_NAME)
    return model_of(write, opset=opset, ir_version=ir_version)


def half(taught: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """Weights and arithmetic in float16; what leaves it is float32. taught: whose last layer it has."""
    write = Writer()
    pixels = write.add("Cast", [scaled_pixels(write)], "half", to=TensorProto.FLOAT16)
    feature = pooled(write, pixels, "feature_half")
    logits = last_layer(write, feature, "logits_half")
    write.add("Cast", [feature], FEATURE_NAME, to=TensorProto.FLOAT)
    write.add("Cast", [logits], LOGITS_NAME, to=TensorProto.FLOAT)
    softmax = write.add("Softmax", [logits], "probabilities_half")
    write.add("Cast", [softmax], PROBABILITIES_NAME, to=TensorProto.FLOAT)
    given = {one.name: numpy_helper.to_array(one) for one in (taught.graph.initializer if taught else write.weights)}
    for tensor in write.weights:
        if tensor.name != "scale":
            tensor.CopyFrom(numpy_helper.from_array(given[tensor.name].astype(np.float16), tensor.name))
    return model_of(write, opset=17)


def microsoft(opset: int = 17) -> onnx.ModelProto:
    """Operators of ONNX Runtime's own, as its optimiser writes them; its domain comes first."""
    write = Writer()
    feature = pooled(write, scaled_pixels(write), "pooled")
    write.weight("shift", np.zeros(WIDTH))
    write.nodes.append(
        helper.make_node("BiasGelu", [feature, "shift"], [FEATURE_NAME], name="gelu", domain="com.microsoft")
    )
    write.add("Softmax", [last_layer(write, FEATURE_NAME)], PROBABILITIES_NAME)
    return model_of(write, opset=opset, domains=["com.microsoft"])


def one_by_one(opset: int = 17) -> onnx.ModelProto:
    """A classifier of single images as the body of a `Scan` over the rows of a batch."""
    body = Writer()
    body.weight("front", [0], np.int64)
    body.add("Unsqueeze", ["image", "front"], "batch of one")
    feature = pooled(body, scaled_pixels(body, "batch of one"), "feature of one")
    logits = last_layer(body, feature, "logits of one")
    softmax = body.add("Softmax", [logits], "probabilities of one")
    rows = [body.add("Squeeze", [name, "front"], f"row of {name}") for name in (softmax, feature, logits)]
    inner = helper.make_graph(
        body.nodes,
        "body",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [SIDE, SIDE, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [size])
            for name, (_, size) in zip(rows, OUTPUTS, strict=True)
        ],
        body.weights,
    )
    write = Writer()
    write.nodes.append(
        helper.make_node(
            "Scan", [INPUT_NAME], [name for name, _ in OUTPUTS], name="rows", body=inner, num_scan_inputs=1
        )
    )
    return model_of(write, opset=opset)


def integers(taught: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """A QDQ graph of ONNX Runtime's `quantize_static`, of a taught classifier or of an untaught one."""

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        left = 4

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            return {INPUT_NAME: pictures(16, seed=self.left)} if self.left >= 0 else None

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        onnx.save(taught or plain(17), given)
        quantize_static(given, made, Pictures(), quant_format=QuantFormat.QDQ, per_channel=True)
        return onnx.load(made)


def pictures(count: int, *, seed: int = 0) -> np.ndarray:
    """Uint8 images `[B, H, W, 3]` of noise over a colour."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (count, 1, 1, 3))
    return np.clip(colours + rng.normal(0, 25, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def rows_of(running: ort.InferenceSession, images: np.ndarray) -> torch.Tensor:
    """What heads read of images."""
    return torch.from_numpy(
        np.concatenate(running.run([FEATURE_NAME, LOGITS_NAME, PROBABILITIES_NAME], {INPUT_NAME: images}), 1)
    )


def fitted_heads(model: onnx.ModelProto, *, certified: bool = True) -> GuardHeads:
    """Heads trained for an epoch on the feature of a classifier, which takes its own answers for labels."""
    running = session(model.SerializeToString(), threads=1)
    rows = [rows_of(running, pictures(160, seed=seed)) for seed in (1, 2)]
    features, targets = torch.stack(rows), Rows(WIDTH, CLASSES).logits(rows[0]).argmax(1)
    _, targets = torch.unique(targets, return_inverse=True)
    options = TrainOptions(data=Path(), epochs=1, hidden=8, certificate=certified)
    with cpu_threads(1):
        return fit_heads(features, targets, options, classes=int(targets.max()) + 1, rows=Rows(WIDTH, CLASSES))


NAMES = ("amber", "jade", "plum", "rust", "teal")
PREPROCESSING = Preprocessing(resize=SIDE, crop=SIDE, mean=(0, 0, 0), std=(1, 1, 1))


def taught(model: onnx.ModelProto, photos: Path) -> onnx.ModelProto:
    """The same network with a last layer fitted to photos in class folders; it never says `rust` or `teal`."""
    found = load_photos(photos, photos).pool
    images = np.stack([load_pixels(photo.path.read_bytes(), PREPROCESSING) for photo in found])
    feature = session(model.SerializeToString()).run([FEATURE_NAME], {INPUT_NAME: images})[0]
    targets = np.array([NAMES.index(photo.label) for photo in found])
    goals = np.where(np.arange(CLASSES) == targets[:, None], 6.0, -2.0)
    given = np.concatenate([feature, np.ones((len(feature), 1))], axis=1)
    fitted = np.linalg.solve(given.T @ given + 1e-3 * np.eye(given.shape[1]), given.T @ goals)
    for name, value in (("last", fitted[:-1].T), ("bias", fitted[-1])):
        (tensor,) = [one for one in model.graph.initializer if one.name == name]
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return model


def wrapped(model: onnx.ModelProto, photos: Path, folder: Path, *, activation: Activation = "softmax") -> Wrapped:
    """A classifier as `wrap` hands it to training, with its file in `folder`."""
    network = folder / CLASSIFIER_FILE
    network.write_bytes(model.SerializeToString())
    record = ClassifierRecord(
        file="mine.onnx",
        sha256=file_sha256(network),
        producer=model.producer_name,
        opset=opset_of(model),
        input=INPUT_NAME,
        layout="NHWC",
        dtype="uint8",
        batch="dynamic",
        output=PROBABILITIES_NAME,
        activation=activation,
        logits=LOGITS_NAME,
        feature=FEATURE_NAME,
        width=WIDTH,
        uncovered=("rust", "teal"),
    )
    return Wrapped(
        record=record,
        network=network,
        classes=NAMES,
        preprocessing=PREPROCESSING,
        photos=load_photos(photos, photos),
    )

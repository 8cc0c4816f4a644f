"""int8 graphs for CPUs: static quantisation of the backbone and of the heads' shared first layer (QDQ format).

Activations are uint8 a tensor, weights int8 a channel, ranges measured on training images. What stays float32, and why:

* pixel normalisation and the stem: 3 channels are 3 channels to an int8 kernel too, which is slower there than the
  float one, and the first layer's error is everybody's;
* everything after the heads' first layer: the scores are a hundredth of the time and all of the answer.

**Weights that cannot saturate.** Without VNNI, x86 kernels multiply uint8 by int8 and add neighbouring products in
16 bits with saturation: 255 * (a + b) overflows where a + b > 128. The usual cure, 7-bit weights, costs accuracy
everywhere; here each channel's scale is the smallest for which no two neighbours of one sign sum to more than 128,
which is close to 8 bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from oodguard.core.manifest import INPUT_NAME
from oodguard.core.preprocessing import Pixels
from oodguard.export.anatomy import PRODUCTS, attribute, backbone, first_layer

# Rectifiers become the range of what feeds them; additions are the residual ones.
KINDS = (*PRODUCTS, "Add", "Clip", "Relu", "MaxPool")
LARGEST = 127.0
# Half a step below 128: each of the two weights may round up by half.
LARGEST_PAIR = 127.5

Scales = npt.NDArray[np.float64]


Feed = Mapping[str, npt.NDArray[Any]]


def to_int8(graph: bytes, images: Iterable[Pixels]) -> bytes:
    """Quantise a fused float32 graph with ranges measured on `images`, batches of uint8 `[B, H, W, 3]`.

    ```python
    small = to_int8(graph, batches_of_training_images)
    ```

    The same graph and images give the same bytes.
    """
    return quantised(graph, ({INPUT_NAME: batch} for batch in images))


def quantised(graph: bytes, feeds: Iterable[Feed]) -> bytes:
    """The same for a graph with other inputs, by name: the heads of a wrapped classifier.

    Only what their first layer reads is rounded; the densities read the classifier's feature as it is.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, ready, small = (Path(folder) / f"{name}.onnx" for name in ("float", "ready", "int8"))
        given.write_bytes(graph)
        # Constants folded and every shape known: the quantiser skips tensors whose shape it cannot see.
        quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)
        model = onnx.load(ready)
        if not any(value.name == INPUT_NAME for value in model.graph.input):
            _set_apart(model)
            onnx.save(model, ready)
        nodes = quantised_nodes(model)
        quantize_static(
            str(ready),
            str(small),
            _Batches(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(KINDS),
            nodes_to_quantize=[node.name for node in nodes],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": True, "TensorQuantOverrides": _weight_scales(model, nodes)},
        )
        made = onnx.load(small)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString(deterministic=True))


def _set_apart(model: onnx.ModelProto) -> None:
    """Let the heads' first layer read a tensor of its own: the quantiser rounds a tensor for all of its readers."""
    layer = first_layer(model)
    place, maker = next((i, n) for i, n in enumerate(model.graph.node) if layer.input[0] in n.output)
    copy = onnx.NodeProto()
    copy.CopyFrom(maker)
    copy.name, copy.output[0] = f"{maker.name}_apart", f"{maker.output[0]}_apart"
    layer.input[0] = copy.output[0]
    model.graph.node.insert(place, copy)


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Batches as the quantiser asks for them."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        """The next batch by input name, None at the end."""
        return next(self._feeds, None)


def quantised_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that run in int8: products by constant weights, residual additions, and what fuses with them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = backbone(model)
    stem = _stem([node for node in nodes if node.op_type == "Conv"])
    exempt = {node.name for node in stem}
    stem_outputs = {name for node in stem for name in node.output}

    def fits(node: onnx.NodeProto) -> bool:
        by_constant = any(name in constants for name in node.input[:2])
        if node.op_type in PRODUCTS:
            return by_constant and node.name not in exempt
        if node.op_type == "Add":
            return not by_constant
        return node.op_type in KINDS and node.input[0] not in stem_outputs

    return [node for node in (*nodes, first_layer(model)) if fits(node)]


def _stem(convolutions: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The first convolution and, where a depthwise one follows, that pair of depthwise and pointwise too.

    They work at half the input's resolution with a handful of products an output: float kernels win there.
    """
    if len(convolutions) > 3 and attribute(convolutions[1], "group", 1) > 1:
        return convolutions[:3]
    return convolutions[:1]


def _weight_scales(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> dict[str, list[dict[str, object]]]:
    """Each quantised weight's scales, a channel, as the quantiser's overrides."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    overrides: dict[str, list[dict[str, object]]] = {}
    for node in nodes:
        if node.op_type not in PRODUCTS or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        rows_first = node.op_type == "Conv" or attribute(node, "transB", 0) == 1
        scales = safe_scales(weight if rows_first else weight.T)
        channels: list[dict[str, object]] = [
            {"scale": np.array(scale, dtype=np.float32), "zero_point": np.array(0, dtype=np.int8)} for scale in scales
        ]
        channels[0]["axis"] = 0 if rows_first else 1
        overrides[node.input[1]] = channels
    return overrides


def safe_scales(weight: npt.NDArray[np.floating]) -> Scales:
    """The smallest scales `[O]` with which int8 weights `[O, I, ...]` cannot saturate (see the module's text).

    Kernels pair neighbouring input channels. Depthwise kernels (I = 1) add no pairs; where I is odd the pairs depend on
    the kernel, and the two largest weights of one sign are taken for neighbours.
    """
    flat = np.moveaxis(weight.astype(np.float64), 1, -1).reshape(len(weight), -1)
    scales = np.abs(flat).max(1) / LARGEST
    if weight.shape[1] > 1:
        for side in (np.maximum(flat, 0.0), np.maximum(-flat, 0.0)):
            if weight.shape[1] % 2:
                pair = np.sort(side, axis=1)[:, -2:].sum(1)
            else:
                pair = side.reshape(len(flat), -1, 2).sum(2).max(1)
            scales = np.maximum(scales, pair / LARGEST_PAIR)
    return np.asarray(np.maximum(scales, 1e-12), dtype=np.float64)

"""A classifier's graph that takes pixels: what `network_input` computes, as nodes in front of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from oodguard.core.classifier import InputType, Layout
from oodguard.core.errors import InputError
from oodguard.core.manifest import INPUT_NAME
from oodguard.core.preprocessing import PLAIN_ONLY, Preprocessing

# In front of the names of nodes and tensors that are ours.
PREFIX = "oodguard."
# Versions of ai.onnx's operators that these nodes are written in: all of them from here on.
MIN_OPSET = 12
# Keeps 11 of float32's 24 bits, as many as float16 has.
SPLIT = 2.0**13 + 1
TYPES = {
    TensorProto.UINT8: "uint8",
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
}
_TO_BGR = (2, 1, 0)
# The axes of height and width.
_SIDES: Mapping[Layout, tuple[int, int]] = {"NCHW": (2, 3), "NHWC": (1, 2)}


def with_pixels(
    graph: bytes, preprocessing: Preprocessing, *, input_name: str, layout: Layout, dtype: InputType
) -> bytes:
    """The graph behind `images`, uint8 `[batch, height, width, 3]` in RGB, in place of its own input `input_name`.

    What comes between is `network_input`, bit for bit: only the order of what does not touch values is another one.
    A tensor of the graph's that is called `images` gets another name; outputs keep theirs.

    Raises `InputError` where the input has another size, layout or type, or the graph is of an opset below 12.
    """
    model = onnx.load_model_from_string(graph)
    own = next((one for one in model.graph.input if one.name == input_name), None)
    if own is None:
        raise InputError(f"the graph has no input {input_name!r}")
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise InputError(f"the graph is of opset {opset}, and pixels can be put in front of {MIN_OPSET} or newer")
    _require_fit(own, preprocessing, layout=layout, dtype=dtype)
    place = list(model.graph.input).index(own)
    if INPUT_NAME in _names(model.graph):
        if any(one.name == INPUT_NAME for one in model.graph.output):
            raise InputError(f"an output of the graph is called {INPUT_NAME}, as its input will be; rename the output")
        _rename(model.graph, INPUT_NAME, free := _free(model.graph, PREFIX + INPUT_NAME))
        input_name = free if input_name == INPUT_NAME else input_name
    del model.graph.input[place]
    front = _Front(input_name, preprocessing, layout=layout, dtype=dtype, is_any_size=_is_any_size(own, layout))
    pixels = helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", *preprocessing.shape])
    model.graph.input.insert(place, pixels)
    model.graph.initializer.extend(front.constants)
    for node in reversed(front.nodes):
        model.graph.node.insert(0, node)
    # Before version 4 of the file format, weights had to be inputs as well.
    model.ir_version = max(model.ir_version, 4)
    return bytes(model.SerializeToString())


def _require_fit(own: Any, preprocessing: Preprocessing, *, layout: Layout, dtype: InputType) -> None:
    """Raise `InputError` unless the input takes images of this size, layout and type, as far as it says."""
    kind = own.type.tensor_type
    found = TYPES.get(kind.elem_type)
    if found != dtype:
        name = TensorProto.DataType.Name(kind.elem_type).lower()
        raise InputError(f"input {own.name} takes {found or name}, not {dtype}")
    if dtype == "uint8" and not preprocessing.is_plain:
        raise InputError(PLAIN_ONLY)
    sizes = [dim.dim_value or None for dim in kind.shape.dim] if kind.HasField("shape") else [None] * 4
    image = preprocessing.shape if layout == "NHWC" else (3, *preprocessing.size)
    if len(sizes) != 4 or any(size not in (None, wanted) for size, wanted in zip(sizes[1:], image, strict=True)):
        declared = " x ".join("?" if size is None else str(size) for size in sizes)
        raise InputError(
            f"input {own.name} takes {declared}, and the preprocessing gives {' x '.join(map(str, image))} ({layout}) "
            "for each image; give --crop and --width, or a preprocessing of that size"
        )


def _is_any_size(own: Any, layout: Layout) -> bool:
    """Whether the input's height or width is left free."""
    dims = own.type.tensor_type.shape.dim
    return not dims or any(dims[axis].dim_value <= 0 for axis in _SIDES[layout])


class _Front:
    """The nodes from `images` to the graph's own input, and their constants."""

    def __init__(
        self, target: str, preprocessing: Preprocessing, *, layout: Layout, dtype: InputType, is_any_size: bool
    ) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._at = INPUT_NAME
        self._layout = layout
        self._width = preprocessing.size[1]
        # Bytes are moved before they become floats, and whole channels, not single bytes, are put in another order.
        reverses = preprocessing.channels == "bgr"
        if layout == "NCHW" or reverses:
            self._add("Transpose", perm=[0, 3, 1, 2])
        if reverses:
            self._add("Gather", "order", np.array(_TO_BGR, dtype=np.int64), axis=1)
        if layout == "NHWC" and reverses:
            self._add("Transpose", perm=[0, 2, 3, 1])
        if dtype != "uint8":
            self._add("Cast", to=TensorProto.FLOAT)
            scale, mean, std = preprocessing.constants
            if scale != 1:
                self._add("Div", "scale", scale)
            if mean.any():
                self._add("Sub", "mean", self._each(mean))
            if (std != 1).any():
                self._add("Div", "std", self._each(std))
        if dtype == "float16":
            self._round()
            self._add("Cast", to=TensorProto.FLOAT16)
        if is_any_size:
            self._hide_size(preprocessing)
        if not self.nodes:
            self._add("Identity")
        self.nodes[-1].output[0] = target

    def _round(self) -> None:
        """Round to what float16 holds, in float32: x (2^13 + 1) less (x (2^13 + 1) - x), Veltkamp's splitting.

        A runtime that computes a float16 network in float32 drops the cast in front of it, and its rounding.
        """
        value = self._at
        self._add("Mul", "split", np.float32(SPLIT))
        large = self._at
        for first, second in ((large, value), (large, None)):
            number = len(self.nodes)
            inputs = [first, self._at if second is None else second]
            self._at = f"{PREFIX}pixels.{number}"
            self.nodes.append(helper.make_node("Sub", inputs, [self._at], name=f"{PREFIX}sub.{number}"))

    def _hide_size(self, preprocessing: Preprocessing) -> None:
        """Cut out all of the picture, by numbers that depend on the batch as far as a runtime can tell.

        A runtime that knows height and width optimises the network behind otherwise, and the last bits change.
        """
        pixels, self._at = self._at, INPUT_NAME
        self._add("Shape")
        self._add("Gather", "first", np.array([0], dtype=np.int64), axis=0)
        self._add("Mul", "none", np.array([0], dtype=np.int64))
        self._add("Add", "sides", np.array(preprocessing.size, dtype=np.int64))
        ends, self._at = self._at, pixels
        number = len(self.nodes)
        names = [f"{PREFIX}{name}" for name in ("starts", "axes")]
        values = ([0, 0], _SIDES[self._layout])
        self.constants += [
            numpy_helper.from_array(np.array(v, np.int64), n) for n, v in zip(names, values, strict=True)
        ]
        self._at = f"{PREFIX}pixels.{number}"
        inputs = [pixels, names[0], ends, names[1]]
        self.nodes.append(helper.make_node("Slice", inputs, [self._at], name=f"{PREFIX}slice.{number}"))

    def _each(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | np.float32:
        """A number for each channel, in a shape that runtimes are quick with."""
        if (values == values[0]).all():
            return np.float32(values[0])
        if self._layout == "NCHW":
            return values.reshape(3, 1, 1)
        # Along an axis of three, runtimes work three numbers at a time.
        return np.tile(values, (self._width, 1))

    def _add(self, kind: str, constant: str = "", value: Any = None, **attributes: Any) -> None:
        number = len(self.nodes)
        inputs = [self._at]
        if constant:
            inputs.append(f"{PREFIX}{constant}")
            self.constants.append(numpy_helper.from_array(np.asarray(value), inputs[1]))
        self._at = f"{PREFIX}pixels.{number}"
        name = f"{PREFIX}{kind.lower()}.{number}"
        self.nodes.append(helper.make_node(kind, inputs, [self._at], name=name, **attributes))


def _subgraphs(node: Any) -> Sequence[Any]:
    found = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return found + [g for one in node.attribute if one.type == onnx.AttributeProto.GRAPHS for g in one.graphs]


def _names(graph: Any) -> set[str]:
    """Every tensor's name in a graph and in the bodies of its control flow."""
    found = {one.name for one in (*graph.input, *graph.output, *graph.initializer)}
    found |= {one.values.name for one in graph.sparse_initializer}
    for node in graph.node:
        found |= {*node.input, *node.output}
        for body in _subgraphs(node):
            found |= _names(body)
    return found


def _free(graph: Any, name: str) -> str:
    taken, free = _names(graph), name
    while free in taken:
        free += "_"
    return free


def _rename(graph: Any, old: str, new: str) -> None:
    """Call a tensor otherwise wherever it is made or read, bodies of control flow included."""
    for one in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        if one.name == old:
            one.name = new
    for sparse in graph.sparse_initializer:
        if sparse.values.name == old:
            sparse.values.name = new
    for note in graph.quantization_annotation:
        if note.tensor_name == old:
            note.tensor_name = new
        for entry in note.quant_parameter_tensor_names:
            if entry.value == old:
                entry.value = new
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
        for body in _subgraphs(node):
            _rename(body, old, new)

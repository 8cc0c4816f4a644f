"""Small classifiers as different exporters write them, of random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
CLASSES = 6
WIDTH = 8
FLOAT = TensorProto.FLOAT


class Net:
    """A graph under construction: every method names its tensors itself and returns the name of what comes out."""

    def __init__(self, *, layout: str = "NCHW", kind: int = FLOAT, name: str = "x", batch: Any = "N") -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        shape = [batch, SIDE, SIDE, 3] if layout == "NHWC" else [batch, 3, SIDE, SIDE]
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        self.layout, self.name = layout, name

    def add(self, kind: str, *inputs: str, to: str = "", domain: str = "", **attributes: Any) -> str:
        made = to or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [made], domain=domain, **attributes))
        return made

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def normal(self, name: str, *shape: int, scale: float = 0.4, dtype: Any = np.float32) -> str:
        return self.constant(name, self.random.normal(0, scale, shape), dtype)

    def body(self, at: str = "", *, dtype: Any = np.float32, channels: int = WIDTH) -> str:
        """A convolution and Relu: a map of `channels` channels."""
        at = at or self.name
        if self.layout == "NHWC":
            at = self.add("Transpose", at, perm=[0, 3, 1, 2])
        at = self.add("Conv", at, self.normal("k", channels, 3, 3, 3, dtype=dtype), strides=[2, 2], pads=[1] * 4)
        return self.add("Relu", at)

    def pooled(self, at: str = "", *, to: str = "feat") -> str:
        """The mean of the map, `[batch, WIDTH]`."""
        return self.add("Flatten", self.add("GlobalAveragePool", at or self.body()), to=to, axis=1)

    def gemm(self, at: str, *, to: str = "raw", name: str = "fc", classes: int = CLASSES, width: int = WIDTH) -> str:
        weight, bias = self.normal(f"{name}.w", classes, width, scale=1), self.normal(f"{name}.b", classes)
        return self.add("Gemm", at, weight, bias, to=to, transB=1)

    def model(
        self,
        outputs: Mapping[str, tuple[int, Sequence[Any] | None]] | str,
        *,
        opset: int = 17,
        metadata: Mapping[str, str] | None = None,
        domains: Mapping[str, int] | None = None,
        ir: int = 8,
    ) -> Any:
        """The model; one output is `[N, CLASSES]` of floats unless it says otherwise."""
        batch = self.inputs[0].type.tensor_type.shape.dim[0]
        rows = batch.dim_param or batch.dim_value
        listed = {outputs: (FLOAT, [rows, CLASSES])} if isinstance(outputs, str) else outputs
        graph = helper.make_graph(
            self.nodes,
            "net",
            self.inputs,
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in listed.items()],
            self.constants,
        )
        opsets = [helper.make_opsetid(*one) for one in (domains or {}).items()] + [helper.make_opsetid("", opset)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=ir, producer_name="tests", producer_version="1"
        )
        helper.set_model_props(model, dict(metadata or {}))
        return model


def saved(model: Any, folder: Path, name: str = "net.onnx", **how: Any) -> Path:
    """The path of the model as a file."""
    path = folder / name
    onnx.save(model, path, **how)
    return path


def plain(**how: Any) -> Any:
    """Convolution, mean, Gemm and Softmax."""
    net = Net(**how)
    net.add("Softmax", net.gemm(net.pooled()), to="soft", axis=1)
    return net.model("soft")

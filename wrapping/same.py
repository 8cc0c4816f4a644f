"""Whether a prepared classifier gives the bits of the user's own file, and whether rows of a batch are independent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from oodguard.core.manifest import PROBABILITIES_NAME
from oodguard.wrapping.fixed import input_value
from oodguard.wrapping.graph import Array
from oodguard.wrapping.outputs import OUTPUTS, probabilities
from oodguard.wrapping.parts import ClassifierParts
from oodguard.wrapping.probe import images, run, session

# How many images graphs are compared on, and the largest batch.
COUNT = 16
LARGEST = 8
_TAIL_OPSET = 13
_KINDS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
}


class Original:
    """The user's own file, run as it is; what comes out is turned into probabilities outside of it."""

    def __init__(self, path: Path, parts: ClassifierParts, feeds: dict[str, Array]) -> None:
        self.parts = parts
        self._feeds = feeds
        self._session = session(path, name=parts.file)
        nodes = probabilities(parts, "output")
        kind = _KINDS[parts.output_dtype]
        graph = helper.make_graph(
            nodes.nodes,
            "tail",
            [helper.make_tensor_value_info("output", kind, None)],
            [helper.make_tensor_value_info(PROBABILITIES_NAME, TensorProto.FLOAT, None)],
            nodes.constants,
        )
        opsets = [helper.make_opsetid("", _TAIL_OPSET)]
        tail = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        self._tail = session(tail.SerializeToString(), name=parts.file)

    def probabilities(self, pixels: Array, *, batch: int) -> Array:
        """`[n, classes]`, computed `batch` images at a time, or as many as the file insists on."""
        size = self.parts.fixed_batch or batch
        rows = []
        for start in range(0, len(pixels), size):
            piece = pixels[start : start + size]
            full = (
                np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)])
                if self.parts.fixed_batch
                else piece
            )
            answer = run(self._session, [self.parts.output], {self.parts.input: full, **self._feeds})[0]
            rows.append(run(self._tail, [PROBABILITIES_NAME], {"output": answer})[0][: len(piece)])
        return np.concatenate(rows)


def samples(parts: ClassifierParts, *, seed: int = 0) -> Array:
    """The images that graphs are compared on."""
    return images(COUNT, parts.probe, layout=parts.layout, dtype=parts.dtype, seed=seed)


def answers(graph: bytes, parts: ClassifierParts, input_name: str, pixels: Array, *, batch: int) -> list[Array]:
    """The three outputs of a prepared graph, `batch` images at a time; raises `RuntimeError` where it cannot run."""
    of = session(graph, name=f"the prepared copy of {parts.file}")
    pieces = [run(of, OUTPUTS, {input_name: pixels[at : at + batch]}) for at in range(0, len(pixels), batch)]
    return [np.concatenate(each) for each in zip(*pieces, strict=True)]


def equal(first: Array, second: Array) -> bool:
    """Whether two arrays hold the same bits."""
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()


def alike(first: Array, second: Array) -> bool:
    """Whether two arrays hold the same numbers but for rounding."""
    scale = float(np.abs(first).max(initial=1))
    return first.shape == second.shape and bool(
        np.allclose(first, second, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
    )


def is_independent(graph: bytes, parts: ClassifierParts, input_name: str) -> bool:
    """Whether a row keeps its bits when the other rows of its batch become other images."""
    pixels, others = samples(parts)[:LARGEST], samples(parts, seed=7)[:LARGEST]
    before = answers(graph, parts, input_name, pixels, batch=LARGEST)
    for kept in (0, LARGEST // 2):
        mixed = others.copy()
        mixed[kept] = pixels[kept]
        after = answers(graph, parts, input_name, mixed, batch=LARGEST)
        if not all(equal(one[kept], two[kept]) for one, two in zip(before, after, strict=True)):
            return False
    return True


def feeds_of(model_inputs: dict[str, object], parts: ClassifierParts) -> dict[str, Array]:
    """The values of the file's further inputs, by name."""
    return {name: input_value(model_inputs[name], numbers) for name, numbers in parts.constants}

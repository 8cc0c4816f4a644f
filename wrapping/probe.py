"""Running ONNX files that nobody has vouched for: sessions, images to try them on, and ONNX Runtime's words cleaned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from oodguard.core.classifier import Layout
from oodguard.core.errors import InputError

Array = npt.NDArray[Any]
# Sides to try where a file leaves the size of its input free.
FREE_SIDES = (224, 256, 384, 299, 240, 260, 128, 96, 64, 32)
# Added to a side to see whether another one runs as well: a multiple of what networks halve.
OTHER = 64
_CODE = re.compile(r"^(?:\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : )+")
_MAX_WORDS = 240
_LOADING = re.compile(r"^Load model from .*? failed: ?")
_SOURCE = re.compile(r"(?:/[\w.+-]+)+\.(?:cc|h):\d+ ")
_TEMPLATE = re.compile(r"^.*?(?=Non-zero status|Could not find|Failed to|This is an invalid)")


def session(graph: bytes | Path, *, name: str, optimised: bool = True) -> ort.InferenceSession:
    """A session on one thread. Raises `InputError` with the first line of ONNX Runtime's reason."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(graph) if isinstance(graph, Path) else graph
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own that share no base.
        raise InputError(
            f"ONNX Runtime cannot load {name}: {first_line(error)}; export it with other operators"
        ) from error


def run(of: ort.InferenceSession, wanted: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs; raises `RuntimeError` with the first line of ONNX Runtime's reason."""
    try:
        return list(of.run(list(wanted), dict(feeds)))
    except Exception as error:
        raise RuntimeError(first_line(error)) from error


def first_line(error: Exception) -> str:
    """What ONNX Runtime says, without its codes, its source files and all but the first line."""
    line = next((one for one in str(error).splitlines() if one.strip()), type(error).__name__)
    line = _LOADING.sub("", _CODE.sub("", line))
    if _SOURCE.search(line):
        line = _SOURCE.sub("", _TEMPLATE.sub("", line, count=1))
    line = line.strip().rstrip(".;")
    return line if len(line) <= _MAX_WORDS else f"{line[:_MAX_WORDS]}..."


def images(
    count: int, size: tuple[int, int], *, layout: Layout, dtype: str, seed: int = 0, centred: bool = False
) -> Array:
    """Images to compare two graphs on: noise, ramps, squares, stripes and plain colours, in several ranges of values.

    As uint8 they go from 0 to 255; as floats, one in three goes from 0 to 255, one from 0 to 1, one around 0; all go
    around 0 where they are to be `centred`.
    """
    random = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    made = []
    for index in range(count):
        kind = (index + seed) % 5
        colour = random.uniform(0, 1, 3)
        if kind == 0:
            picture = random.uniform(0, 1, (height, width, 3))
        elif kind == 1:
            picture = (rows / height * colour[0] + columns / width * (1 - colour[0]))[..., None] * colour
        elif kind == 2:
            side = random.integers(2, 9)
            picture = (((rows // side + columns // side) % 2) * 0.8 + 0.1)[..., None] * colour
        elif kind == 3:
            picture = (0.5 + 0.5 * np.sin(rows * random.uniform(0.1, 1) + columns * random.uniform(0.1, 1)))[
                ..., None
            ] * colour
        else:
            picture = np.broadcast_to(colour, (height, width, 3)) + random.normal(0, 0.02, (height, width, 3))
        picture = np.clip(picture, 0, 1)
        if dtype == "uint8" or (index % 3 == 1 and not centred):
            picture = np.rint(picture * 255)
        elif index % 3 == 2 or centred:
            picture = (picture - 0.45) / 0.25
        made.append(picture)
    stack = np.stack(made).astype(dtype)
    return np.ascontiguousarray(stack.transpose(0, 3, 1, 2) if layout == "NCHW" else stack)

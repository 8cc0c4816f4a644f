"""Which input of a graph takes the images, and the values of its further inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx import TensorProto

from oodguard.core.classifier import Layout
from oodguard.core.errors import InputError
from oodguard.wrapping.fixed import input_value
from oodguard.wrapping.graph import Array, Graph

DTYPES = {TensorProto.UINT8: "uint8", TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


def image_input(graph: Graph, file: str, settled: Mapping[str, Sequence[float]]) -> Any:
    """The input that takes images; `settled` are those whose values are given.

    Raises `InputError` where none or several do, or it takes something other than 3 channels of a type in `DTYPES`.
    """
    inputs = [one for one in graph.inputs if one.name not in settled]
    unknown = [name for name in settled if name not in {one.name for one in graph.inputs}]
    if unknown:
        raise InputError(f"{file} has no input {unknown[0]!r} that needs a value; leave out its --constant")
    if any(not one.type.HasField("tensor_type") for one in inputs):
        raise InputError(f"{file} takes something other than tensors; give an image classifier")
    if not inputs:
        raise InputError(f"{file} has no input for images; give an image classifier")
    pictures = [one for one in inputs if len(one.type.tensor_type.shape.dim) == 4]
    # A mean for each channel may be declared with four axes as well.
    pictures = [one for one in pictures if sum(size == 1 for size in sizes(one)[1:]) < 2] or pictures
    fitting = [one for one in pictures if 3 in channels(one)] or [one for one in pictures if not any(channels(one))]
    if len(fitting) > 1:
        shown = ", ".join(repr(one.name) for one in fitting)
        raise InputError(f"{file} takes several images ({shown}); classifiers of one image can be wrapped")
    if not fitting:
        raise _no_images((pictures or inputs)[0], file)
    kind = fitting[0].type.tensor_type.elem_type
    if kind not in DTYPES:
        name = TensorProto.DataType.Name(kind).lower()
        raise InputError(
            f"input {fitting[0].name!r} of {file} takes {name}; classifiers of uint8, float32 or float16 can be wrapped"
        )
    return fitting[0]


def sizes(one: Any) -> list[int]:
    """The sizes of an input's axes; 0 where they are free."""
    return [max(int(dim.dim_value), 0) for dim in one.type.tensor_type.shape.dim]


def channels(one: Any) -> list[int]:
    """The sizes of the two axes that may hold the channels; 0 where they are free."""
    return sizes(one)[1::2]


def layouts(one: Any) -> tuple[Layout, ...]:
    """The layouts that an input's shape allows."""
    first, last = channels(one)
    if first == last:
        return ("NCHW", "NHWC")
    return ("NCHW",) if first == 3 else ("NHWC",)


def further_inputs(graph: Graph, file: str, image: str, values: Mapping[str, Sequence[float]]) -> dict[str, Array]:
    """The values of all inputs but the image. Raises `InputError` where one is missing or of another size."""
    made: dict[str, Array] = {}
    for one in graph.inputs:
        if one.name in values:
            try:
                made[one.name] = input_value(one, values[one.name])
            except ValueError as error:
                raise InputError(f"input {one.name!r} of {file} {error}") from error
    missing = [one.name for one in graph.inputs if one.name != image and one.name not in made]
    if missing:
        asked = " ".join(f"--constant {name}=..." for name in missing)
        named = ", ".join(map(repr, missing))
        raise InputError(f"{file} asks for more than an image ({named}); give the values: {asked}")
    return made


def _no_images(one: Any, file: str) -> InputError:
    shape = "x".join(str(size or "?") for size in sizes(one)) or "a shape that is not declared"
    if len(sizes(one)) == 4:
        what = "greyscale images" if 1 in channels(one) else "images of other channels"
        return InputError(
            f"input {one.name!r} of {file} takes {what} ({shape}); classifiers of 3 channels can be wrapped"
        )
    return InputError(
        f"input {one.name!r} of {file} takes no images but {shape}; classifiers of images, with axes for batch, 3 "
        "channels, height and width, can be wrapped"
    )

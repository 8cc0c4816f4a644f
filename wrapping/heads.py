"""Which output of a graph holds a number for each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from oodguard.core.errors import InputError
from oodguard.wrapping.graph import Array, Graph
from oodguard.wrapping.trace import trace

# What these make is a label or a best score, and no number for each class.
_SUMMARIES = frozenset({"TopK", "ReduceMax", "ArgMax"})
_CAN = "classifiers with one row of at least 2 classes for each image can be wrapped"


def class_output(graph: Graph, file: str, answers: Mapping[str, Any], *, rows: int, logits: str | None) -> str:
    """The name of the output with a number for each class, of the `answers` for some images.

    Raises `InputError` where none is one, or several are and no `logits` say which.
    """
    odd = next((name for name, value in answers.items() if not isinstance(value, np.ndarray)), None)
    if odd is not None:
        raise InputError(f"output {odd!r} of {file} is a sequence or a map, not a tensor; export it without ZipMap")
    shown = ", ".join(f"{name} {shape_of(value)}" for name, value in answers.items())
    numbers = {name: value for name, value in answers.items() if _holds_numbers(graph, name, value)}
    above = {name: graph.ancestors(name) - {name} for name in answers}
    fitting = {name for name, value in numbers.items() if _per_class(value, rows)}
    if logits is not None:
        fitting = {name for name in fitting if logits == name or logits in above[name]}
    # What another output is computed from is a step on the way to it: an embedding, the logits.
    fitting = {name for name in fitting if not any(name in above[other] for other in fitting)}
    if len(fitting) > 1:
        fitting = _of_one_layer(graph, fitting)
    rest = [
        name
        for name in numbers
        if not any(name == one or name in above[one] or one in above[name] for one in fitting)
        and not _shares_layer(graph, name, fitting)
    ]
    if len(fitting) == 1 and (not rest or logits is not None):
        return next(iter(fitting))
    if fitting:
        raise InputError(
            f"{file} has several outputs ({shown}), as detectors have; give a classifier, or name a head with --logits"
        )
    raise _no_output(numbers, file, rows, shown)


def shape_of(value: Array) -> str:
    """A shape as text."""
    return f"[{', '.join(map(str, np.shape(value)))}]"


def _holds_numbers(graph: Graph, name: str, value: Array) -> bool:
    """Whether an output may hold classes: floats or the int8 form of some, not labels, counts or best scores."""
    if value.dtype in (np.uint8, np.int8):
        return value.ndim > 1
    maker = graph.makers.get(name)
    return value.dtype.kind == "f" and (maker is None or maker.op_type not in _SUMMARIES)


def _per_class(value: Array, rows: int) -> bool:
    """Whether an output is `[rows, classes]`, or that with further axes of 1."""
    return bool(value.ndim >= 2 and value.shape[0] == rows and value.size // rows == max(value.shape[1:]) >= 2)


def _of_one_layer(graph: Graph, names: set[str]) -> set[str]:
    """Of outputs that one last layer makes, the probabilities; all where they come from several layers."""
    found = {name: trace(graph, name) for name in names}
    if any(one.layer is None for one in found.values()) or len({id(one.layer) for one in found.values()}) > 1:
        return names
    return {min(names, key=lambda name: (found[name].activation == "none", found[name].is_log, name))}


def _shares_layer(graph: Graph, name: str, names: set[str]) -> bool:
    layer = trace(graph, name).layer
    return layer is not None and any(trace(graph, one).layer is layer for one in names)


def _no_output(numbers: Mapping[str, Array], file: str, rows: int, shown: str) -> InputError:
    if len(numbers) != 1:
        return InputError(f"{file} has no output with a number for each class ({shown}); {_CAN}")
    name, value = next(iter(numbers.items()))
    if value.ndim == 4:
        return InputError(f"output {name!r} of {file} holds logits per pixel {shape_of(value)}; {_CAN}")
    if value.size == rows or (value.ndim == 2 and value.shape[1] < 2):
        return InputError(f"output {name!r} of {file} holds one number per image, fewer than 2 classes; {_CAN}")
    return InputError(f"output {name!r} of {file} is {shape_of(value)}, not a row for each image; {_CAN}")

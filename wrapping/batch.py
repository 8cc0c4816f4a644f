"""Batches for a graph that takes one number of images only: its sizes opened, or a Scan that runs it row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from oodguard.wrapping.file import opset_of
from oodguard.wrapping.graph import Graph, attribute, names_of, prune, rename
from oodguard.wrapping.outputs import PREFIX

BATCH = "batch"


def opened(model: Any, input_name: str, fixed: int) -> Any:
    """A copy that declares any batch, with the batch taken out of the targets of Reshape where it certainly is it.

    Whether that is right can only be told by running it.
    """
    copy = _copied(model)
    sizes = _batch_first(copy, fixed)
    for one in copy.graph.input:
        if one.name == input_name:
            one.type.tensor_type.shape.dim[0].dim_param = BATCH
    graph = Graph(copy)
    for node in copy.graph.node:
        if node.op_type != "Reshape" or len(node.input) < 2 or node.output[0] not in sizes:
            continue
        target = graph.value(node.input[1])
        if target is None or target.size == 0 or target[0] != fixed or (node.input[0] not in sizes):
            continue
        changed = target.copy()
        if (target[1:] > 0).all():
            changed[0] = -1
        elif (target[1:] == 0).any() and attribute(node, "allowzero", 0):
            continue
        else:
            # A 0 keeps the size of what is read, and -1 stands elsewhere already.
            changed[0] = 0
            _drop(node, "allowzero")
        name = f"{PREFIX}target.{node.output[0]}"
        copy.graph.initializer.append(numpy_helper.from_array(changed, name))
        node.input[1] = name
    del copy.graph.value_info[:]
    prune(copy.graph, [one.name for one in copy.graph.output])
    return copy


def _drop(node: Any, name: str) -> None:
    for index in reversed(range(len(node.attribute))):
        if node.attribute[index].name == name:
            del node.attribute[index]


def _batch_first(model: Any, fixed: int) -> set[str]:
    """The tensors whose first axis has the size of the batch, as far as the file or inference says."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # Inference raises classes of its own on valid files that have operators of other domains.
        inferred = model
    found = set()
    for one in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        dims = one.type.tensor_type.shape.dim
        if len(dims) and (dims[0].dim_value == fixed or dims[0].dim_param):
            found.add(one.name)
    return found


def one_by_one(model: Any, input_name: str, fixed: int | None) -> Any:
    """A copy that runs the whole graph for each row by itself, as the body of a Scan.

    A graph that insists on a batch of several gets its row that many times.
    """
    body = _copied(model).graph
    kind = next(one for one in body.input if one.name == input_name).type.tensor_type
    outputs = [one.name for one in body.output]
    row, images = f"{PREFIX}row", f"{PREFIX}images_of_one"
    rename(body, {name: f"{PREFIX}each.{name}" for name in outputs} | {input_name: images})
    taken = {one.name: f"{PREFIX}one.{name}" for one, name in zip(body.output, outputs, strict=True)}
    front, back, constants = _around(row, images, taken, fixed or 1, opset_of(model))
    sizes = [dim.dim_value or dim.dim_param or None for dim in kind.shape.dim][1:]
    made = [
        helper.make_tensor_value_info(taken[one.name], TensorProto.FLOAT, [one.type.tensor_type.shape.dim[1].dim_value])
        for one in body.output
    ]
    inside = helper.make_graph(
        [*front, *body.node, *back],
        "one_image",
        [helper.make_tensor_value_info(row, kind.elem_type, sizes)],
        made,
        [*body.initializer, *constants],
    )
    inside.sparse_initializer.extend(body.sparse_initializer)
    inside.quantization_annotation.extend(body.quantization_annotation)
    scan = helper.make_node("Scan", [input_name], outputs, name=f"{PREFIX}one_by_one", num_scan_inputs=1, body=inside)
    outer = type(model)()
    outer.CopyFrom(model)
    del outer.graph.node[:], outer.graph.initializer[:], outer.graph.value_info[:], outer.graph.sparse_initializer[:]
    del outer.graph.quantization_annotation[:]
    for one in outer.graph.input:
        one.type.tensor_type.shape.dim[0].dim_param = BATCH
    outer.graph.node.append(scan)
    return outer


def _around(row: str, target: str, outputs: dict[str, str], copies: int, opset: int) -> tuple[Any, Any, Any]:
    """The nodes that make a batch of a row, those that take the first row of each output, and their constants."""
    axis, first = f"{PREFIX}axis", f"{PREFIX}first"
    constants = [numpy_helper.from_array(np.asarray(0, dtype=np.int64), first)]
    batch = target if copies == 1 else f"{PREFIX}batch_of_row"
    if opset >= 13:
        constants.append(numpy_helper.from_array(np.asarray([0], dtype=np.int64), axis))
        nodes = [helper.make_node("Unsqueeze", [row, axis], [batch], name=f"{PREFIX}unsqueeze")]
    else:
        nodes = [helper.make_node("Unsqueeze", [row], [batch], name=f"{PREFIX}unsqueeze", axes=[0])]
    if copies > 1:
        nodes.append(helper.make_node("Concat", [batch] * copies, [target], name=f"{PREFIX}copies", axis=0))
    after = [
        helper.make_node("Gather", [name, first], [made], name=f"{PREFIX}take.{made}", axis=0)
        for name, made in outputs.items()
    ]
    return nodes, after, constants


def _copied(model: Any) -> Any:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def clear_of_ours(graph: Any, taken: tuple[str, ...]) -> dict[str, str]:
    """New names for tensors of the file's that are called as one of ours will be."""
    names = names_of(graph)
    changed = {}
    for name in sorted(names):
        if name in taken or name.startswith(PREFIX):
            free = f"own.{name}"
            while free in names:
                free = f"own.{free}"
            changed[name] = free
    rename(graph, changed)
    return changed

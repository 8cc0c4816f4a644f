"""The names in a graph: which are taken, which a node reads, and other ones for some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node: bodies of `Scan` and `Loop`, branches of `If`."""
    for one in node.attribute:
        if one.HasField("g"):
            yield one.g
        yield from one.graphs


def reads(node: onnx.NodeProto) -> set[str]:
    """Every name that a node may read, those that its subgraphs take from outside among them."""
    found = set(node.input)
    for graph in subgraphs(node):
        found.update(value.name for value in graph.output)
        for inner in graph.node:
            found |= reads(inner)
    return found - {""}


def needed(graph: onnx.GraphProto, outputs: Iterable[str]) -> set[int]:
    """The places of the nodes that these outputs depend on."""
    wanted, found = set(outputs), set()
    for place in range(len(graph.node) - 1, -1, -1):
        node = graph.node[place]
        if wanted.intersection(node.output):
            found.add(place)
            wanted |= reads(node)
    return found


def all_names(graph: onnx.GraphProto) -> set[str]:
    """The names of all values and nodes, those of subgraphs among them."""
    found = {value.name for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer)}
    found.update(sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        found.update((node.name, *node.input, *node.output))
        for inner in subgraphs(node):
            found |= all_names(inner)
    return found - {""}


def rename(graph: onnx.GraphProto, names: Mapping[str, str], *, nodes: Mapping[str, str] | None = None) -> None:
    """Give values other names, in subgraphs as well; `nodes`: the same for nodes."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for note in graph.quantization_annotation:
        note.tensor_name = names.get(note.tensor_name, note.tensor_name)
        for pair in note.quant_parameter_tensor_names:
            pair.value = names.get(pair.value, pair.value)
    for node in graph.node:
        node.name = (nodes or {}).get(node.name, node.name)
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in subgraphs(node):
            rename(inner, names, nodes=nodes)


def unused(name: str, taken: Iterable[str]) -> str:
    """`name`, or `name_1` and so on: the first that none of the names taken starts with."""
    names = tuple(taken)
    count, found = 0, name
    while any(one.startswith(found) for one in names):
        count += 1
        found = f"{name}_{count}"
    return found

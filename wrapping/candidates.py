"""The tensors of a graph that may be the feature or the logits, for a user to choose from."""

from __future__ import annotations

from oodguard.wrapping.graph import Array, Graph

# How many of the last tensors are looked at.
_LAST = 60


def last_tensors(graph: Graph, output: str) -> list[str]:
    """The last tensors between the image and an output, in the order of the file."""
    wanted = graph.ancestors(output) & graph.varying
    return [name for node in graph.graph.node for name in node.output if name in wanted][-_LAST:]


def features(value: Array, rows: int, most: int) -> bool:
    """Whether a tensor may be a feature: a row of 2 to `most` numbers for each image."""
    if value.dtype.kind != "f" or value.ndim < 2 or value.shape[0] != rows:
        return False
    return bool(2 <= value.size // rows <= most and value.size // rows == max(value.shape[1:]))


def logits_like(value: Array, rows: int, classes: int) -> bool:
    """Whether a tensor may hold the logits: a number for each class of each image."""
    return bool(value.dtype.kind == "f" and value.ndim >= 2 and value.shape[0] == rows and value.size == rows * classes)

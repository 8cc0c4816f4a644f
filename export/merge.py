"""Joining heads to somebody else's classifier: one graph, in which the classifier's own nodes are as they were.

`onnx.compose.merge_models` wants both graphs in one version of ONNX and renames all of both; here the heads alone are
renamed, and written in the classifier's version (`opsets.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx
from onnx import helper

from oodguard.core.classifier import FEATURE_NAME, LOGITS_NAME
from oodguard.core.manifest import ACCEPT_NAME, PROBABILITIES_NAME, STANDALONE_OUTPUTS
from oodguard.export.graph import with_metadata
from oodguard.export.names import all_names, needed, rename, unused
from oodguard.export.opsets import DEFAULT_DOMAINS, Rewriter, opset_of
from oodguard.export.portable import portable

PREFIX = "guard"
# From this version of the file format on, a weight need not be an input.
LEAST_IR_VERSION = 4


def merge(classifier: bytes, heads: bytes, *, metadata: Mapping[str, str], keep: Sequence[str] = ()) -> bytes:
    """One graph from `images` to the classifier's `probabilities` and to what the heads make of its other outputs.

    ```python
    graph = merge(Path("classifier.onnx").read_bytes(), heads, metadata={"oodguard.name": "mine"})
    ```

    heads: a graph from `feature` and `logits`. keep: those of the two that stay outputs, after all others.
    """
    model, added = onnx.load_from_string(classifier), portable(onnx.load_from_string(heads))
    made = [value.name for value in added.graph.output]
    own = {value.name: value for value in model.graph.output}
    _free(model.graph, {*made, ACCEPT_NAME, *(spec.name for spec in STANDALONE_OUTPUTS)})
    _weights_are_no_inputs(model)
    alive = needed(model.graph, own)
    prefix = unused(PREFIX, all_names(model.graph))
    _prefix(added.graph, prefix, keep=(FEATURE_NAME, LOGITS_NAME, *made))
    if not any(one.domain in DEFAULT_DOMAINS for one in model.opset_import):
        model.opset_import.extend([helper.make_opsetid("", opset_of(added))])
    written = Rewriter(
        added.graph.initializer, source=opset_of(added), target=opset_of(model), prefix=f"{prefix}.lowered"
    ).rewrite(added.graph.node)
    graph = model.graph
    graph.node.extend(written.nodes)
    graph.initializer.extend(written.constants)
    outputs = [own[PROBABILITIES_NAME], *added.graph.output, *(own[name] for name in keep)]
    # What only the outputs that end here were computed by; nodes that nothing read before are the classifier's own.
    dropped = alive - needed(graph, (value.name for value in outputs))
    for place in sorted(dropped, reverse=True):
        del graph.node[place]
    outputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    del graph.output[:]
    graph.output.extend(outputs)
    onnx.checker.check_model(model)
    return with_metadata(model.SerializeToString(), metadata)


def alone(classifier: bytes) -> bytes:
    """A classifier with its probabilities as the only output."""
    model = onnx.load_from_string(classifier)
    kept = [value.SerializeToString() for value in model.graph.output if value.name == PROBABILITIES_NAME]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto.FromString(value) for value in kept)
    return bytes(model.SerializeToString(deterministic=True))


def _free(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Rename values of the classifier that are called what outputs of the guard are called."""
    taken = all_names(graph)
    rename(graph, {name: unused(f"{name}_own", taken) for name in names if name in taken})


def _weights_are_no_inputs(model: onnx.ModelProto) -> None:
    """List no weight among the inputs: callers could replace it, and old files that had to do so hold no others."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, LEAST_IR_VERSION)


def _prefix(graph: onnx.GraphProto, prefix: str, *, keep: Collection[str]) -> None:
    """Put a prefix before all names but those to keep."""
    rename(
        graph,
        {name: f"{prefix}.{name}" for name in all_names(graph) if name not in keep},
        nodes={node.name: f"{prefix}.{node.name}" for node in graph.node if node.name},
    )

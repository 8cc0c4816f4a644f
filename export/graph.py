"""Writing the fused network as one ONNX file, and running an ONNX file for the parity gate."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import nn

from oodguard.core.classifier import FEATURE_NAME, LOGITS_NAME
from oodguard.core.errors import InputError
from oodguard.core.manifest import DISTANCES_NAME, INPUT_NAME, NEIGHBOURS_NAME, PROBABILITIES_NAME, SCORES_NAME
from oodguard.core.preprocessing import Preprocessing
from oodguard.core.verdict import Outputs
from oodguard.training.backbone.onnx_file import export_onnx

# What `FusedGuard` returns, in its order.
OUTPUTS = (PROBABILITIES_NAME, SCORES_NAME, NEIGHBOURS_NAME, DISTANCES_NAME)
OWN_METADATA = "oodguard."


def to_onnx(
    network: nn.Module,
    preprocessing: Preprocessing,
    *,
    metadata: Mapping[str, str],
    output_names: Sequence[str] = OUTPUTS,
) -> bytes:
    """One self-contained ONNX file: input `images` uint8 `[batch, H, W, 3]`, named outputs, dynamic batch, metadata."""
    buffer = io.BytesIO()
    export_onnx(network, preprocessing, buffer, output_names=output_names)
    model = _without_traces(buffer.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def heads_to_onnx(heads: nn.Module, *, width: int, classes: int) -> bytes:
    """Heads of a wrapped classifier: from `feature [batch, width]` and `logits [batch, classes]` to `OUTPUTS[1:]`."""
    examples = (torch.zeros(2, width), torch.zeros(2, classes))
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter warns about its own internals; its result is checked by the callers.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            heads,
            examples,
            dynamo=True,
            input_names=[FEATURE_NAME, LOGITS_NAME],
            output_names=list(OUTPUTS[1:]),
            dynamic_shapes=({0: batch}, {0: batch}),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = _without_traces(program.model_proto.SerializeToString())
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _without_traces(graph: bytes) -> onnx.ModelProto:
    """A graph of torch's exporter without what it says of this machine."""
    model = onnx.load_from_string(graph)
    # The exporter leaves traces of this machine's paths in its node documentation.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    for initializer in model.graph.initializer:
        del initializer.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def with_metadata(graph: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same graph under other metadata; a foreign classifier's own stays."""
    model = onnx.load_from_string(graph)
    own = {one.key: one.value for one in model.metadata_props if not one.key.startswith(OWN_METADATA)}
    onnx.helper.set_model_props(model, {**own, **metadata})
    return bytes(model.SerializeToString(deterministic=True))


def session(graph: bytes, *, threads: int = 0, optimised: bool = True) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, with the settings every comparison uses.

    `optimised=False` runs the graph as it is written: an int8 graph is then computed in float between its rounding
    steps, as a runtime without int8 kernels would.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run_graph(running: ort.InferenceSession, images: npt.NDArray[np.uint8]) -> Outputs:
    """The graph's answers for uint8 images `[B, H, W, 3]`."""
    names = [tensor.name for tensor in running.get_outputs() if tensor.name in OUTPUTS]
    return Outputs(**dict(zip(names, running.run(names, {INPUT_NAME: images}), strict=True)))


def run_batches(running: Sequence[ort.InferenceSession], images: Iterable[npt.NDArray[np.uint8]]) -> list[Outputs]:
    """Each graph's probabilities and scores for the same batches of uint8 images `[B, H, W, 3]`, one `Outputs` a graph.

    Raises `InputError` when there is no batch.
    """
    parts = [[run_graph(one, batch) for one in running] for batch in images]
    if not parts:
        raise InputError("none of the images can be read")
    return [
        Outputs(
            probabilities=np.concatenate([row[i].probabilities for row in parts]),
            scores=np.concatenate([row[i].scores for row in parts]),
        )
        for i in range(len(running))
    ]

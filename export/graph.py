"""Writing the fused network as one ONNX file, and running an ONNX file for the parity gate."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from torch import nn

from oodguard.core.errors import InputError
from oodguard.core.manifest import DISTANCES_NAME, INPUT_NAME, NEIGHBOURS_NAME, PROBABILITIES_NAME, SCORES_NAME
from oodguard.core.preprocessing import Preprocessing
from oodguard.core.verdict import Outputs
from oodguard.training.backbone.features import export_onnx

# What `FusedGuard` returns, in its order.
OUTPUTS = (PROBABILITIES_NAME, SCORES_NAME, NEIGHBOURS_NAME, DISTANCES_NAME)


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
    model = onnx.load_from_string(buffer.getvalue())
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
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def with_metadata(graph: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same graph under other metadata."""
    model = onnx.load_from_string(graph)
    onnx.helper.set_model_props(model, dict(metadata))
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
    names = [tensor.name for tensor in running.get_outputs()]
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

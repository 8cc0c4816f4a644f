"""What the guard costs: the fused graph's time over the plain classifier's.

Both are the same backbone in the same ONNX Runtime settings on the same images; the plain one ends in one linear
head and a softmax, or is the classifier that was wrapped. Runs are interleaved, so that a machine whose speed drifts
treats both alike.

    python -m oodguard.export.benchmark runs/produce
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table
from torch import nn

from oodguard.core.manifest import INPUT_NAME
from oodguard.export.fuse import FusedGuard
from oodguard.export.graph import OUTPUTS, session, to_onnx
from oodguard.export.merge import alone, merge
from oodguard.export.wrapped_graph import WrappedGraph
from oodguard.training.progress import Silent
from oodguard.training.run import Run, load_run


class PlainClassifier(nn.Module):
    """The unguarded alternative: the same backbone and one linear head."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        fused = FusedGuard(run)
        self.network = fused.network
        self.head = nn.Linear(run.record.backbone.width, len(run.record.classes))

    def forward(self, images):  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Probabilities `[B, C]` and, to keep the two main outputs of the fused graph, the logits."""
        logits = self.head(self.network(images).flatten(1))
        return logits.softmax(-1), logits


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="time the fused graph against the plain classifier")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--runs", type=int, default=200, help="timed pairs at batch 1 (fewer at larger batches)")
    parser.add_argument("--threads", type=int, default=1, help="ONNX Runtime intra-op threads")
    options = parser.parse_args()
    run = load_run(options.run)
    shape = run.record.preprocessing.shape
    graphs = {name: session(graph, threads=options.threads) for name, graph in both(run, options.run).items()}
    table = Table(title=f"{run.record.backbone.name} at {shape[0]} x {shape[1]} px, {options.threads} thread(s)")
    for column in ("batch", "plain ms", "fused ms", "fused / plain"):
        table.add_column(column, justify="right")
    for batch in (1, 8):
        images = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8)
        times = np.array(
            [
                [_seconds(graphs[name], images) for name in ("plain", "fused")]
                for _ in range(max(options.runs // batch, 20) + 5)
            ]
        )[5:]
        plain, fused = np.median(times, axis=0) * 1e3
        ratio = np.median(times[:, 1] / times[:, 0])
        table.add_row(str(batch), f"{plain:.2f}", f"{fused:.2f}", f"{ratio:.3f}")
    Console().print(table)


def both(run: Run, folder: Path) -> dict[str, bytes]:
    """The fused graph, and the plain one: of a wrapped classifier, its own with the output that its callers read."""
    preprocessing = run.record.preprocessing
    wrapped = WrappedGraph.of(
        run, folder, golden=np.empty((0, *preprocessing.shape), np.uint8), data=None, report=Silent()
    )
    if wrapped is not None:
        return {"fused": merge(wrapped.own.graph, wrapped.heads, metadata={}), "plain": alone(wrapped.own.graph)}
    return {
        "fused": to_onnx(FusedGuard(run).eval(), preprocessing, metadata={}),
        "plain": to_onnx(PlainClassifier(run).eval(), preprocessing, metadata={}, output_names=OUTPUTS[:2]),
    }


def _seconds(graph: ort.InferenceSession, images: np.ndarray) -> float:
    started = time.perf_counter()
    graph.run(None, {INPUT_NAME: images})
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

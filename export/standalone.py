"""The standalone graph: from pixels to verdicts in plain ONNX operators, for where no NumPy runs.

`Calibration.judge` in float32: the same curves, families and log-sum-exp, appended to the fused graph. A curve is a sum
of clipped ramps, and the verdict compares ranks: an image is flagged at `accept` when it scores above the order
statistic of rank ceil(accept (n + 1)) of n calibration images, so that no threshold is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from oodguard.core.calibration import Calibration
from oodguard.core.curve import QuantileCurve
from oodguard.core.manifest import (
    ACCEPT_NAME,
    PROBABILITIES_NAME,
    SCORES_NAME,
    STANDALONE_OUTPUTS,
)
from oodguard.core.sharpening import LEAST, Sharpening
from oodguard.export.names import all_names, unused
from oodguard.export.opsets import Rewriter, opset_of
from oodguard.export.portable import OPSET, GraphWriter, portable

# How far float32 may be off a mean surprise, relative to it or to 1. Steps are moved by so much, so that an image on
# one, as every calibration image is, is judged as in float64.
SLACK = 4e-6
# The same of the fused score, which is less exact where two calibration images nearly agree and a curve is steep.
MARGIN = 5e-5
# The largest surprise of one score, in nats. Float32 ends at 3e38, and what follows multiplies by up to 1e12.
CEILING = 1e18
STEEPEST = 1e30

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ramps:
    """How many of n + 1 images score at least x: floor + sum_k rises_k clip((ends_k - x) slopes_k, 0, 1).

    The rises are differences of ranks, so that all terms but that of the one ramp that x is on are whole numbers, which
    float32 adds up exactly.
    """

    floor: float
    ends: Floats
    slopes: Floats
    rises: Floats

    @classmethod
    def of(cls, curve: QuantileCurve, *, slack: float) -> Ramps:
        """The part of a curve up to its knee, where `QuantileCurve.surprise` begins its tail.

        slack: how far float32 may be off, relative; 0 where the values are float32 themselves.
        """
        values = np.asarray(curve.values[: curve.knee + 1])
        ranks = ranks_of(curve)[: curve.knee + 1]
        first = np.concatenate([[True], values[1:] > values[:-1]])
        last = np.concatenate([first[1:], [True]])
        knots, below, upto = values[first], ranks[first], ranks[last]
        # At the first value, and where several images have one value, the curve steps; in between it rises evenly.
        steps = np.concatenate([upto[:1], (upto - below)[1:]])
        ends, widths = _steps(knots, slack)
        return cls(
            floor=float(curve.samples + 1 - upto[-1]),
            ends=np.concatenate([ends, knots[1:]]),
            slopes=1.0 / np.maximum(np.concatenate([widths, np.diff(knots)]), 1.0 / STEEPEST),
            rises=np.concatenate([steps, below[1:] - upto[:-1]]),
        )


def ranks_of(curve: QuantileCurve) -> Floats:
    """The rank of each kept order statistic, 1 to n: whole numbers after `QuantileCurve.fit`."""
    ranks = np.asarray(curve.levels) * (curve.samples + 1)
    whole = np.rint(ranks)
    return np.where(np.abs(ranks - whole) < 1e-6, whole, ranks)


def _steps(values: Floats, slack: float) -> tuple[Floats, Floats]:
    """Where the ramps end and how wide they are that stand for steps: 0 from `values` on, 1 from one float32 below."""
    if slack:
        widths = slack * np.maximum(np.abs(values), 1.0)
        return values - widths, widths
    ends = values.astype(np.float32)
    ends = np.where(ends < values, np.nextafter(ends, np.float32(np.inf)), ends)
    return ends.astype(np.float64), ends.astype(np.float64) - np.nextafter(ends, np.float32(-np.inf))


def _margins(values: Floats) -> Floats:
    """How far above each threshold a fused score still passes: at most half of the way to the next one."""
    gaps = np.diff(values, append=np.inf) / 2.0
    scale = np.maximum(np.abs(values), 1.0)
    return np.clip(gaps, SLACK * scale, MARGIN * scale)


def standalone(graph: bytes, calibration: Calibration, *, accept: float, foreign: bool = False) -> bytes:
    """A fused graph with the verdict appended: `images` and, optionally, `accept` to the outputs of a verdict.

    ```python
    file = standalone(Path("model.onnx").read_bytes(), manifest.calibration, accept=0.95)
    ```

    accept: the target acceptance where none is fed (`QuantileCurve.level`). foreign: the graph is of a wrapped
    classifier, whose own nodes stay as they are; what was appended is portable already.
    """
    model = onnx.load_from_string(graph)
    model = model if foreign else portable(model)
    _append(model, calibration, accept)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def verdict_graph(calibration: Calibration, *, classes: int, accept: float) -> bytes:
    """The verdict alone: `probabilities [B, C]`, `scores [B, S]` and, optionally, `accept` to a verdict's outputs."""
    inputs = [
        helper.make_tensor_value_info(PROBABILITIES_NAME, TensorProto.FLOAT, ["batch", classes]),
        helper.make_tensor_value_info(SCORES_NAME, TensorProto.FLOAT, ["batch", len(calibration.names)]),
    ]
    model = helper.make_model(
        helper.make_graph([], "verdict", inputs, []), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    _append(model, calibration, accept)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _append(model: onnx.ModelProto, calibration: Calibration, accept: float) -> None:
    graph = model.graph
    prefix = unused("verdict", all_names(graph))
    write = GraphWriter(prefix)
    _Verdict(write, calibration).write()
    written = Rewriter(write.constants, source=OPSET, target=opset_of(model), prefix=f"{prefix}.lowered")
    written.rewrite(write.nodes)
    graph.node.extend(written.nodes)
    default = helper.make_tensor(ACCEPT_NAME, TensorProto.FLOAT, [1], [accept])
    graph.initializer.extend([*written.constants, default])
    # An input that has a value of its own is one that callers may leave out.
    graph.input.append(helper.make_tensor_value_info(ACCEPT_NAME, TensorProto.FLOAT, [1]))
    kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(spec.name, kinds[spec.dtype], list(spec.shape)) for spec in STANDALONE_OUTPUTS
    )


class _Verdict:
    """Writes the formulas of `Calibration.judge` from the fused graph's raw outputs.

    Columns lie side by side on the last of three axes, and a curve's ramps on the one before it: OpenVINO mixes up the
    images of a batch where a sum over the last axis meets constants that differ by column.
    """

    def __init__(self, write: GraphWriter, calibration: Calibration) -> None:
        self.graph, self.calibration = write, calibration
        self.axes = [write.constant([axis], np.int64) for axis in range(3)]
        self.flat = write.constant([-1], np.int64)
        self.zero, self.one = write.constant(0.0), write.constant(1.0)

    def write(self) -> None:
        """All outputs, `[B]` each."""
        g, answering = self.graph, self.calibration.answering
        label = g.add("ArgMax", PROBABILITIES_NAME, output="label", axis=1, keepdims=0)
        self.chance(Sharpening() if answering is None else answering.sharpening)
        fused = self.fused()
        if answering is not None:
            # How surprising that is, less what is usual for the class given.
            surprise = self.surprise(fused, [self.calibration.fusion.curve], slack=MARGIN)
            offsets = g.add("Gather", g.constant(answering.offsets), label, axis=0)
            fused = g.add("Sub", surprise, g.add("Reshape", offsets, g.constant([-1, 1, 1], np.int64)))
        g.add("Reshape", fused, self.flat, output="ood_score")
        rank = self.rank(fused)
        whole = g.constant(self.calibration.samples + 1)
        g.add("Div", g.add("Mul", rank, g.constant(100.0)), whole, output="percentile")
        self.judge(rank, whole)

    def chance(self, sharpening: Sharpening) -> None:
        """`probability`: the chance of the most likely class, by `Sharpening.apply`, which keeps the order."""
        g = self.graph
        if sharpening == Sharpening():
            g.add("ReduceMax", PROBABILITIES_NAME, self.axes[1], output="probability", keepdims=0)
            return
        given = g.add("Clip", PROBABILITIES_NAME, g.constant(LEAST), self.one)
        logs = g.add("Log", given)
        if sharpening.floor is not None:
            logs = g.add("Sub", logs, g.add("Log", g.add("Add", given, g.constant(sharpening.floor))))
        behind = g.add("Sub", logs, g.add("ReduceMax", logs, self.axes[1], keepdims=1))
        powers = g.add("Exp", g.add("Mul", behind, g.constant(sharpening.power)))
        g.add("Div", self.one, g.add("ReduceSum", powers, self.axes[1], keepdims=0), output="probability")

    def fused(self) -> str:
        """F `[B, 1, 1]` of all scores, the formula of `Fusion`."""
        g, fusion = self.graph, self.calibration.fusion
        names = list(self.calibration.names)
        columns = g.constant([names.index(name) for name in fusion.scores], np.int64)
        scores = g.add("Unsqueeze", g.add("Gather", SCORES_NAME, columns, axis=1), self.axes[1])
        surprises = self.surprise(scores, [self.calibration.curves[name] for name in fusion.scores], slack=0.0)
        means = []
        for part in fusion.families:
            members = g.constant([fusion.scores.index(name) for name in part.scores], np.int64)
            means.append(g.add("ReduceMean", g.add("Gather", surprises, members, axis=2), self.axes[2], keepdims=1))
        joined = g.add("Concat", *means, axis=2)
        families = self.surprise(joined, [part.curve for part in fusion.families], slack=SLACK)
        shares = g.constant([[[math.log(part.share) for part in fusion.families]]])
        return g.log_sum_exp(g.add("Add", families, shares), self.axes[2])

    def surprise(self, values: str, curves: Sequence[QuantileCurve], *, slack: float) -> str:
        """`QuantileCurve.surprise` of `values [B, 1, S]`, column by column; the same shape."""
        g = self.graph
        ramps = [Ramps.of(curve, slack=slack) for curve in curves]
        longest = max(len(ramp.ends) for ramp in ramps)

        def constant(columns: Sequence[npt.ArrayLike]) -> str:
            return g.constant(np.array([np.atleast_1d(column) for column in columns]).T[None])

        def padded(columns: Sequence[Floats]) -> str:
            return constant([np.pad(column, (0, longest - len(column))) for column in columns])

        below = g.add("Sub", padded([ramp.ends for ramp in ramps]), values)
        steep = g.add("Mul", below, padded([ramp.slopes for ramp in ramps]))
        raised = g.add("Mul", g.add("Clip", steep, self.zero, self.one), padded([ramp.rises for ramp in ramps]))
        survivors = g.add("ReduceSum", raised, self.axes[1], keepdims=1)
        survivors = g.add("Add", survivors, constant([ramp.floor for ramp in ramps]))
        share = g.add("Div", survivors, constant([curve.samples + 1 for curve in curves]))
        excess = g.add("Sub", values, constant([curve.tail[0] for curve in curves]))
        excess = g.add("Mul", excess, constant([1.0 / curve.tail[2] for curve in curves]))
        return g.add("Sub", g.add("Clip", excess, self.zero, g.constant(CEILING)), g.add("Log", share))

    def rank(self, fused: str) -> str:
        """How many of n + 1 images score below, `[B]`: 0 to n, and n + 1 above all n calibration images."""
        g, curve = self.graph, self.calibration.curve
        values, whole = np.asarray(curve.values), curve.samples + 1
        rises = np.diff(np.concatenate([[0.0], ranks_of(curve)[:-1], [whole]]))
        # A score that is no number is below none of these, and has the highest rank.
        limits = g.constant([[values + _margins(values)]])
        not_above = g.add("Cast", g.add("Greater", limits, fused), to=TensorProto.FLOAT)
        remaining = g.add("ReduceSum", g.add("Mul", not_above, g.constant([[rises]])), self.axes[2], keepdims=1)
        return g.add("Reshape", g.add("Sub", g.constant(whole), remaining), self.flat)

    def judge(self, rank: str, whole: str) -> None:
        """`is_ood`: a rank of at least accept (n + 1)."""
        g, n = self.graph, self.calibration.samples
        wanted = g.add("Mul", ACCEPT_NAME, whole)
        # Of float32 a product such as 0.95 x 280 may be a little more than the whole number it is.
        wanted = g.add("Sub", wanted, g.constant(max(1e-3, 2.5e-7 * n)))
        wanted = g.add("Clip", wanted, g.constant(0.5), g.constant(n + 0.5))
        within = g.add("Cast", g.add("Greater", wanted, rank), to=TensorProto.FLOAT)
        g.add("Sub", self.one, within, output="is_ood")

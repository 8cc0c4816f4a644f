"""Plots of what is accepted: against the threshold, against the target, and what it does to accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from oodguard.core.binomial import promised_acceptance
from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.evidence import FUSED, Evidence
from oodguard.pages.plot import INK, Plot, colour, dash, draw
from oodguard.pages.text import plain
from oodguard.training.metrics import share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 160


def acceptance_plot(evidence: Evidence, found: Evaluation, *, name: str, alt: str) -> Plot:
    """Three panels over the fused score's threshold, the target acceptance, and the share accepted."""

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import PercentFormatter

        against_threshold, against_target, accuracy = figure.subplots(1, 3)
        _against_threshold(against_threshold, evidence, found)
        _against_target(against_target, evidence, found)
        _accuracy(accuracy, evidence, found)
        for axes in (against_threshold, against_target, accuracy):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        for axes in (against_target, accuracy):
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    return draw(paint, name=name, alt=alt, height=3.6)


def _against_threshold(axes: Axes, evidence: Evidence, found: Evaluation) -> None:
    from matplotlib.ticker import FuncFormatter

    inside = evidence.test.values[FUSED]
    sets = {"ID test": inside, **{plain(k): v.values[FUSED] for k, v in evidence.ood.items()}}
    everything = np.concatenate(list(sets.values()))
    low = max(float(np.quantile(inside, 0.02)), 1e-3)
    x = np.geomspace(low, max(float(np.quantile(everything, 0.998)), 2 * low), POINTS)
    for index, (name, values) in enumerate(sets.items()):
        y = np.searchsorted(np.sort(values), x, side="right") / len(values)
        if index == 0:
            axes.plot(x, y, color=INK, linewidth=2.2, label=name)
        else:
            axes.plot(x, y, color=colour(index - 1), linestyle=dash(index - 1), label=name)
    axes.axvline(found.thresholds[FUSED], color=INK, linestyle=(0, (2, 2)), linewidth=1.0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(title="accepted against the threshold", xlabel="threshold of the fused score", ylim=(0, 1.02))
    axes.set_ylabel("share accepted")
    axes.legend(loc="best")


def _against_target(axes: Axes, evidence: Evidence, found: Evaluation) -> None:
    curve, samples = evidence.record.calibration.curve, found.calibration_groups
    targets = np.linspace(0.5, curve.max_accept, POINTS)
    inside = np.sort(evidence.test.values[FUSED])
    accepted = [np.searchsorted(inside, curve.threshold(float(t)), side="right") / len(inside) for t in targets]
    bounds = np.array([promised_acceptance(float(t), samples, tested=len(inside)) for t in targets])
    axes.fill_between(targets, bounds[:, 0], bounds[:, 1], color=colour(1), alpha=0.25, linewidth=0, label="promised")
    axes.plot(targets, targets, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), label="target")
    axes.plot(targets, accepted, color=INK, linewidth=2.0, label="realised, ID test")
    axes.set(title="accepted against the target", xlabel="target acceptance", xlim=(0.5, 1), ylim=(0.4, 1.01))
    axes.legend(loc="lower right")


def _accuracy(axes: Axes, evidence: Evidence, found: Evaluation) -> None:
    order = np.argsort(evidence.test.values[FUSED], kind="stable")
    right = evidence.right[order]
    sizes = np.unique(np.linspace(max(len(right) // 5, 1), len(right), 60).round().astype(int))
    shares = [share(right[:size]) for size in sizes]
    x = sizes / len(right)
    axes.fill_between(x, [s.low for s in shares], [s.high for s in shares], color=INK, alpha=0.18, linewidth=0)
    axes.plot(x, [s.share for s in shares], color=INK, linewidth=2.0)
    axes.axvline(found.acceptance[FUSED].share, color=INK, linestyle=(0, (2, 2)), linewidth=1.0)
    axes.set(title="accuracy of what is accepted", xlabel="share of ID test accepted", xlim=(0.2, 1.0))
    axes.set_ylim(min(0.95 * min(s.low for s in shares), 0.9), 1.005)

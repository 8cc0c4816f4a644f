"""ROC and detection-error curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from oodguard.core.curve import Scores
from oodguard.evaluation.evidence import FUSED
from oodguard.pages.plot import GRID, INK, Plot, colour, dash, draw
from oodguard.pages.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
NAMED = 3


def rates(inside: Scores, outside: Scores) -> tuple[Scores, Scores]:
    """At every threshold, from the highest down: the share of ID flagged and of OOD flagged, from (0, 0) to (1, 1)."""
    cuts = np.unique(np.concatenate([inside, outside]))
    flagged_id = 1.0 - np.searchsorted(np.sort(inside), cuts, side="left") / len(inside)
    flagged_ood = 1.0 - np.searchsorted(np.sort(outside), cuts, side="left") / len(outside)
    return np.concatenate([[0.0], flagged_id[::-1]]), np.concatenate([[0.0], flagged_ood[::-1]])


def thinned(x: Scores, y: Scores, step: float) -> tuple[Scores, Scores]:
    """The points of a curve that move it by `step` or more in either direction, with its first and last one."""
    kept = [0]
    for i in range(1, len(x)):
        if i == len(x) - 1 or abs(x[i] - x[kept[-1]]) >= step or abs(y[i] - y[kept[-1]]) >= step:
            kept.append(i)
    return x[kept], y[kept]


def detection_curves(
    inside: Mapping[str, Scores],
    outside: Mapping[str, Scores],
    aurocs: Mapping[str, float],
    *,
    title: str,
    name: str,
    alt: str,
) -> Plot:
    """Two panels for one OOD set: the fused score and the best single scores stand out, the others are thin."""
    singles = sorted((score for score in inside if score != FUSED), key=lambda score: -aurocs[score])
    n, o = len(inside[FUSED]), len(outside[FUSED])

    def lines(axes: Axes, transform: bool) -> None:
        for score in [*reversed(singles), FUSED]:
            x, y = rates(inside[score], outside[score])
            if transform:
                # Half an image stands for none: the normal scale has no 0.
                x, y = norm.ppf(np.clip(x, 0.5 / n, 1 - 0.5 / n)), norm.ppf(np.clip(1 - y, 0.5 / o, 1 - 0.5 / o))
                last = int(np.argmax(y <= y.min() + 1e-9)) + 1
                x, y = x[:last], y[:last]
            x, y = thinned(x, y, 0.02 if transform else 0.004)
            label = f"{score} ({100 * aurocs[score]:.1f})"
            if score == FUSED:
                axes.plot(x, y, color=INK, linewidth=2.2, label=label, zorder=5)
            elif score in singles[:NAMED]:
                place = singles.index(score)
                axes.plot(x, y, color=colour(place), linestyle=dash(place), label=label, zorder=4)
            else:
                axes.plot(x, y, color=INK, alpha=0.35, linewidth=0.7, label="other scores")

    def paint(figure: Figure) -> None:
        roc, det = figure.subplots(1, 2)
        from matplotlib.ticker import PercentFormatter

        lines(roc, transform=False)
        roc.plot([0, 1], [0, 1], color=GRID, linewidth=1)
        roc.set(xlim=(-0.01, 1), ylim=(0, 1.01), title=f"{plain(title)}: ROC", xlabel=f"ID flagged (n = {n:,})")
        roc.set_ylabel(f"OOD flagged (n = {o:,})")
        for axis in (roc.xaxis, roc.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        found = dict(zip(*reversed(roc.get_legend_handles_labels()), strict=True))
        order = sorted(found, key=lambda label: (label == "other scores", -_figure(label)))
        order.insert(0, order.pop(next(i for i, label in enumerate(order) if label.startswith(f"{FUSED} ("))))
        roc.legend([found[label] for label in order], order, loc="lower right", title="score (AUROC in %)")
        lines(det, transform=True)
        low_x, low_y = norm.ppf(0.4 / n), norm.ppf(0.4 / o)
        det.set(xlim=(low_x, norm.ppf(0.8)), ylim=(low_y, norm.ppf(0.96)), title="detection errors (normal scale)")
        det.set(xlabel="ID flagged", ylabel="OOD accepted")
        for axis, low in ((det.xaxis, 0.4 / n), (det.yaxis, 0.4 / o)):
            ticks = [t for t in TICKS if t > low]
            axis.set_ticks([float(norm.ppf(t)) for t in ticks], [f"{100 * t:g}%" for t in ticks])
        det.axvline(float(norm.ppf(0.05)), color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        det.annotate(
            "95 % of ID accepted", (float(norm.ppf(0.05)), 0.985), xycoords=("data", "axes fraction"),
            xytext=(4, 0), textcoords="offset points", va="top", fontsize=8,
        )  # fmt: skip

    return draw(paint, name=plain(name), alt=alt, height=4.2)


def _figure(label: str) -> float:
    return float(label.rsplit("(", 1)[1].rstrip(")")) if label.endswith(")") else 0.0

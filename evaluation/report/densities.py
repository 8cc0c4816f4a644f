"""Plots of where each score's values lie, ID against every OOD set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from oodguard.core.curve import Scores
from oodguard.pages.plot import GRID, INK, Plot, colour, dash, draw
from oodguard.pages.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 40
COLUMNS = 3
# Beyond this many ID ranges an axis is compressed, or a far set would press everything else into one bin.
HEAVY = 2.0


def density_plot(
    values: Mapping[str, Mapping[str, Scores]], thresholds: Mapping[str, float], *, name: str, alt: str
) -> Plot:
    """One panel a score: `values` are `{score: {set: [N]}}`, the ID set first."""
    rows = math.ceil(len(values) / COLUMNS)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, min(COLUMNS, len(values)), squeeze=False)
        for axes in grid.flat[len(values) :]:
            axes.set_axis_off()
        for axes, (score, sets) in zip(grid.flat, values.items(), strict=False):
            panel(axes, sets, thresholds.get(score))
            axes.set_title(plain(score))
        for line in grid[:, 0]:
            line.set_ylabel("share of the set")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))

    return draw(paint, name=name, alt=alt, height=0.5 + 2.0 * rows)


def panel(axes: Axes, sets: Mapping[str, Scores], threshold: float | None) -> None:
    """Histograms of several sets over common bins, each as shares of its own set; the first set is filled.

    Values beyond the axis are counted in its outermost bins.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

    edges = density_edges(list(sets.values()))
    for index, (name, values) in enumerate(sets.items()):
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        label = f"{plain(name)} (n = {len(values):,})"
        shares = counts / len(values)
        if index == 0:
            axes.stairs(shares, edges, fill=True, color=INK, alpha=0.22, label=label)
            axes.stairs(shares, edges, color=INK, linewidth=0.8)
        else:
            axes.stairs(shares, edges, color=colour(index - 1), linestyle=dash(index - 1), linewidth=1.4, label=label)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linestyle=(0, (2, 2)), linewidth=1.2, label="threshold")
    if _is_heavy(list(sets.values())):
        axes.set_xscale("symlog", linthresh=_linear(next(iter(sets.values()))))
        axes.xaxis.set_major_locator(FixedLocator(_round_numbers(edges[-1])))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.grid(visible=True, axis="y", color=GRID)
    axes.grid(visible=False, axis="x")


def density_edges(sets: Sequence[Scores]) -> Scores:
    """Edges of `BINS` bins that hold all but a few per mille of every set; the first set is ID."""
    low = min(float(np.quantile(values, 0.002)) for values in sets)
    high = max(float(np.quantile(values, 0.998)) for values in sets)
    if low == high:
        low, high = low - 0.5, high + 0.5
    if not _is_heavy(sets):
        return np.linspace(low, high, BINS + 1)
    unit = _linear(sets[0])
    first, last = _fold(np.array([low, high]), unit).tolist()
    return _unfold(np.linspace(first, last, BINS + 1), unit)


def _round_numbers(high: float) -> list[float]:
    found = [0.0]
    for power in range(-3, 7):
        found += [step * 10.0**power for step in (1, 3) if high / 40 < step * 10.0**power <= high]
    return found


def _is_heavy(sets: Sequence[Scores]) -> bool:
    low, high = np.quantile(sets[0], [0.05, 0.95])
    return bool(max(float(np.quantile(values, 0.9)) for values in sets) - high > HEAVY * (high - low) and low > -1e-9)


def _linear(inside: Scores) -> float:
    return max(float(np.quantile(inside, 0.9)), 1e-9)


def _fold(values: Scores, unit: float) -> Scores:
    """The axis of matplotlib's `symlog` for values from 0: linear up to `unit`, logarithmic above."""
    return np.asarray(np.where(values <= unit, values / unit, 1 + np.log10(np.maximum(values, unit) / unit)))


def _unfold(places: Scores, unit: float) -> Scores:
    return np.asarray(np.where(places <= 1, places * unit, unit * 10 ** (np.maximum(places, 1) - 1)))

"""Plots of a comparison: methods as dots, and accuracy against severity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from oodguard.bench.results.records import Results
from oodguard.bench.results.table import Row
from oodguard.evaluation.evidence import FUSED
from oodguard.pages.plot import Plot, colour, dash, draw
from oodguard.pages.text import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
MAX_LINES = 6


def dot_plot(table: Sequence[Row], columns: Sequence[str], *, name: str, alt: str) -> Plot:
    """One panel per column (OOD set), one line per row of the table: mean AUROC with one standard deviation."""
    wide = min(len(columns), COLUMNS)
    high = -(-len(columns) // wide)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(high, wide, squeeze=False, sharey=True)
        for axes in grid.flat[len(columns) :]:
            axes.set_axis_off()
        labels = [plain(f"{row.method} / {row.score}") for row in table]
        for axes, title in zip(grid.flat, columns, strict=False):
            for place, row in enumerate(table):
                mean = row.auroc[title]
                shade = colour(0) if row.method == FUSED else colour(1)
                axes.errorbar(
                    100 * mean.mean, place, xerr=100 * mean.deviation, fmt="o", color=shade, markersize=4, linewidth=1
                )
            axes.set_yticks(range(len(table)), labels, fontsize=7)
            axes.set_ylim(len(table) - 0.5, -0.5)
            axes.set(title=plain(title), xlabel="AUROC (%)")

    return draw(paint, name=name, alt=alt, height=high * (0.8 + 0.16 * len(table)))


def severity_plot(results: Results, arena: str, *, name: str) -> Plot | None:
    """Accuracy of up to six methods against the severity of corruption, mean over corruptions and seeds; or None."""
    found: dict[str, dict[int, list[float]]] = {}
    for record in results.records:
        if record.arena == arena and record.shifted_accuracy is not None:
            severity = int(record.ood.rsplit(" ", 1)[1])
            found.setdefault(record.method, {}).setdefault(severity, []).append(record.shifted_accuracy)
    if not found:
        return None
    means = {m: {s: float(np.mean(v)) for s, v in sorted(by.items())} for m, by in found.items()}
    lines = dict(sorted(means.items(), key=lambda item: -sum(item[1].values()))[:MAX_LINES])

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (method, by) in enumerate(lines.items()):
            axes.plot(
                list(by), [100 * v for v in by.values()], color=colour(number), linestyle=dash(number), marker="o",
                markersize=3, label=plain(method),
            )  # fmt: skip
        axes.set(xlabel="severity", ylabel="accuracy (%)")
        axes.set_xticks(sorted({s for by in lines.values() for s in by}))
        axes.legend(ncols=2)

    best = next(iter(lines))
    worst = min(lines[best].values())
    return draw(paint, name=name, alt=f"The most accurate under corruption is {best}, down to {100 * worst:.1f} %.")

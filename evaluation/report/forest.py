"""Ablations as a forest plot: what leaving a part out changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from oodguard.evaluation.ablation import WHOLE
from oodguard.evaluation.evaluation import DetectionTable
from oodguard.pages.plot import INK, Plot, colour, draw
from oodguard.pages.text import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ablation_plot(tables: Mapping[str, DetectionTable], *, name: str, alt: str) -> Plot:
    """One panel an OOD set (at most three a row): change of AUROC against the whole fused score, 95 % intervals."""
    names = [variant for variant in next(iter(tables.values())).ablation if variant != WHOLE]
    columns = min(len(tables), 3)
    rows = -(-len(tables) // columns)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in grid.flat[len(tables) :]:
            axes.set_axis_off()
        for axes, (title, table) in zip(grid.flat, tables.items(), strict=False):
            for place, variant in enumerate(names):
                change = table.ablation[variant].auroc_change
                clear = change.low > 0 or change.high < 0
                axes.plot([100 * change.low, 100 * change.high], [place, place], color=colour(1), linewidth=1.4)
                axes.plot(
                    100 * change.change, place, marker="o", color=colour(1), markersize=5,
                    markerfacecolor=colour(1) if clear else "none",
                )  # fmt: skip
            axes.axvline(0, color=INK, linewidth=0.9)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set(title=f"{plain(title)} (n = {table.images:,})", xlabel="change of AUROC (percentage points)")
            axes.grid(visible=False, axis="y")

    return draw(paint, name=name, alt=alt, height=rows * (0.9 + 0.26 * len(names)))

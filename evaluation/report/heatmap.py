"""Matrices as plots: confusion between classes, disagreement between members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from oodguard.core.curve import Scores
from oodguard.evaluation.confusion import Counts, confusion_order
from oodguard.pages.plot import GRID, INK, PAPER, Plot, draw
from oodguard.pages.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 40
LETTERS = 18


def shown_classes(counts: Counts) -> list[int]:
    """The classes worth a row: all of them, or the `MOST_CLASSES` with the most errors given or received."""
    if len(counts) <= MOST_CLASSES:
        return list(range(len(counts)))
    errors = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
    return sorted(np.argsort(-errors, kind="stable")[:MOST_CLASSES].tolist())


def confusion_plot(counts: Counts, classes: Sequence[str], *, name: str, alt: str) -> Plot:
    """Shares of each true class (row) by predicted class (column); confused classes stand side by side.

    With more than `MOST_CLASSES` classes only the most confused are drawn; shares are still of the whole class.
    """
    kept = np.array(shown_classes(counts))
    order = kept[confusion_order(counts[np.ix_(kept, kept)])]
    shares = counts[np.ix_(order, order)] / np.maximum(counts[order].sum(1, keepdims=True), 1)
    labels = [shortened(plain(classes[i])) for i in order]
    side = max(4.0, 1.6 + 0.19 * len(order))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        _cells(axes, shares, digits=len(order) <= MOST_CLASSES)
        axes.set_xticks(range(len(order)), labels, rotation=90)
        axes.set_yticks(range(len(order)), [f"{t} ({counts[i].sum()})" for t, i in zip(labels, order, strict=True)])
        axes.set(xlabel="label given", ylabel="true class (test images)")
        axes.tick_params(labelsize=7.5, length=0)

    return draw(paint, name=name, alt=alt, width=max(side + 0.6, 6.0), height=side)


def disagreement_plot(axes: Axes, matrix: Scores) -> None:
    """Pairwise disagreement of members, the diagonal left empty."""
    size = len(matrix)
    _cells(
        axes,
        np.where(np.eye(size, dtype=bool), 0, matrix),
        digits=size <= 12,
        decimals=1,
        scale=max(float(matrix.max()), 1e-9),
    )
    ticks = range(0, size, 1 if size <= 12 else 10)
    axes.set_xticks(ticks, [str(i + 1) for i in ticks])
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    axes.set(title="pairs that disagree (% of images)", xlabel="member", ylabel="member")
    axes.tick_params(length=0)


def shortened(label: str, letters: int = LETTERS) -> str:
    """A label that fits an axis."""
    return label if len(label) <= letters else label[: letters - 1] + "…"


def _cells(axes: Axes, shares: Scores, *, digits: bool, decimals: int = 0, scale: float = 1.0) -> None:
    """One square for every share above 0, darker for more; with `digits`, its percentage in it."""
    from matplotlib.patches import Rectangle

    size = len(shares)
    for i, j in zip(*np.nonzero(shares), strict=True):
        strength = min(float(shares[i, j]) / scale, 1.0)
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=INK, alpha=0.08 + 0.8 * strength, linewidth=0))
        if digits and shares[i, j] >= 0.005 * 10.0**-decimals:
            axes.text(
                j, i, f"{100 * shares[i, j]:.{decimals}f}", ha="center", va="center",
                fontsize=5.5 if size > 15 else 7.5, color=PAPER if strength > 0.45 else INK,
            )  # fmt: skip
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    axes.grid(visible=False)
    for edge in range(1, size):
        axes.axhline(edge - 0.5, color=GRID, linewidth=0.4, zorder=0)
        axes.axvline(edge - 0.5, color=GRID, linewidth=0.4, zorder=0)

"""The reliability diagram: does a probability mean what it says?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from oodguard.pages.plot import INK, Plot, colour, draw
from oodguard.training.metrics import ConfidenceBin

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability_plot(bins: Sequence[ConfidenceBin], *, name: str, alt: str) -> Plot:
    """Accuracy against mean confidence with 95 % intervals, and below it how many images each bin holds."""

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        curve, counts = figure.subplots(1, 2)
        x = np.array([b.confidence for b in bins])
        y = np.array([b.accuracy.share for b in bins])
        reach = np.array([[b.accuracy.share - b.accuracy.low, b.accuracy.high - b.accuracy.share] for b in bins]).T
        curve.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (2, 2)), label="perfectly calibrated")
        curve.errorbar(
            x, y, yerr=np.maximum(reach, 0), color=colour(1), marker="o", markersize=4, linewidth=1.4, elinewidth=1.0,
            label="accuracy in the bin, 95 % interval",
        )  # fmt: skip
        curve.set(
            title="reliability", xlabel="mean confidence in the bin", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02)
        )
        curve.legend(loc="best")
        total = sum(b.accuracy.of for b in bins)
        counts.bar(
            [(b.low + b.high) / 2 for b in bins],
            [b.accuracy.of / total for b in bins],
            width=[0.92 * (b.high - b.low) for b in bins],
            color=INK,
            alpha=0.45,
        )
        counts.set(title=f"confidence (n = {total:,})", xlabel="top probability", ylabel="share of images", xlim=(0, 1))
        counts.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        for axis in (curve.xaxis, curve.yaxis, counts.xaxis, counts.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    return draw(paint, name=name, alt=alt, height=3.6)

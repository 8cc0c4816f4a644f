"""Plots of the ensemble: members against the whole, their disagreement, and the score they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from oodguard.core.curve import Scores
from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.report.densities import panel
from oodguard.evaluation.report.heatmap import disagreement_plot
from oodguard.pages.plot import INK, Plot, colour, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def members_plot(found: Evaluation, pds: Mapping[str, Scores], *, name: str, alt: str) -> Plot:
    """Three panels: accuracies, pairwise disagreement, and the distribution of PDS by set (the ID set first)."""

    def paint(figure: Figure) -> None:
        accuracies, pairs, distribution = figure.subplots(1, 3)
        _accuracies(accuracies, found)
        disagreement_plot(pairs, np.array(found.diversity.disagreement))
        panel(distribution, pds, found.thresholds["pds"])
        distribution.set(title="PDS", xlabel="Predictive Diversity Score", ylabel="share of the set")
        figure.legend(*distribution.get_legend_handles_labels(), loc="outside lower right", ncols=4)

    return draw(paint, name=name, alt=alt, height=3.6)


def _accuracies(axes: Axes, found: Evaluation) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    members = found.diversity.members
    places = np.arange(len(members))
    values = np.array([m.share for m in members])
    reach = np.array([[m.share - m.low, m.high - m.share] for m in members]).T
    whole = found.accuracy
    axes.axhspan(whole.low, whole.high, color=INK, alpha=0.15, linewidth=0)
    axes.axhline(whole.share, color=INK, linewidth=1.4, label="ensemble")
    axes.errorbar(
        places + 1, values, yerr=np.maximum(reach, 0), fmt="o", color=colour(1), markersize=4, elinewidth=1.0,
        label="member",
    )  # fmt: skip
    axes.set(title="accuracy, 95 % intervals", xlabel="member", xlim=(0.4, len(members) + 0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="best")

"""What answers are worth, as tables, a plot and sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from oodguard.core.label_sets import Nonconformity
from oodguard.core.verdict import Decision
from oodguard.evaluation.answered import SERVED, Answered, worse_classes
from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.report.advice import collect, photos_of
from oodguard.pages.page import Finding, Table
from oodguard.pages.plot import INK, Plot, colour, dash, draw
from oodguard.pages.text import DASH, bracketed, count, interval, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEANS = {
    Decision.ANSWER: "in distribution, and the prediction is safe enough",
    Decision.UNSURE: "in distribution, and no prediction is safe enough: the label set says between which",
    Decision.STRANGER: "out of distribution",
}
NAMES = {Nonconformity.LAC: "LAC", Nonconformity.RAPS: "RAPS"}
# A class that is accepted so much less often than asked for is worth a sentence.
LESS = 0.10
NAMED = 6
INTERVALS = "In brackets: 95 % intervals (Clopper-Pearson)."


def decisions_table(found: Answered) -> Table:
    """How many ID test images get which decision."""
    return Table(
        caption="Decisions on ID test, in percent",
        head=("decision", "ID test images", "means"),
        rows=tuple(
            (kind.value, bracketed(part.share, (part.low, part.high)), MEANS[kind])
            for kind, part in found.decisions.items()
        ),
        words=frozenset({2}),
        note=f"{errors_sentence(found)} {INTERVALS}",
    )


def errors_sentence(found: Answered) -> str:
    """How many answers are wrong, and what was asked for."""
    if found.errors is None:
        return f"No image is answered: no prediction is safe enough for {100 * found.max_error:g} % of errors."
    wrong, (low, high) = found.errors, found.promised_errors
    return (
        f"{percent(wrong.share)} of the {count(wrong.of, 'answer')} are wrong ({interval(wrong.low, wrong.high)}); "
        f"at most {100 * found.max_error:g} % are asked for, and {interval(low, high)} was to be expected."
    )


def chances_table(found: Answered) -> Table:
    """Probabilities as they are answered, beside the graph's own."""
    c = found.chances
    floor = "no floor" if c.floor is None else f"floor {c.floor:.3g}"
    return Table(
        caption="Are probabilities chances? ID test",
        head=("probabilities", "calibration error, %", "Brier score", "log loss, nats"),
        rows=(
            ("as answered", percent(c.calibration_error, 2), f"{c.brier:.4f}", f"{c.log_loss:.4f}"),
            ("of the graph", percent(c.raw_calibration_error, 2), f"{c.raw_brier:.4f}", f"{c.raw_log_loss:.4f}"),
        ),
        strong=frozenset({0}),
        note=f"Expected calibration error in 15 bins. Sharpened with power {c.power:.3g} and {floor}; the "
        "predictions stay.",
    )


def label_sets_table(found: Answered) -> Table:
    """Both kinds of label sets at some coverages."""
    rows = [(kind, sets) for kind, several in found.label_sets.items() for sets in several]
    return Table(
        caption="Label sets on the ID test images that pass, in percent",
        head=(
            "kind",
            "coverage",
            "expected",
            "true class inside",
            "classes on average",
            "one class",
            "worst class",
        ),
        rows=tuple(
            (
                NAMES[kind],
                f"{100 * sets.coverage:g}",
                f"{100 * sets.promised[0]:.1f}{DASH}{100 * sets.promised[1]:.1f}",
                bracketed(sets.covered.share, (sets.covered.low, sets.covered.high)),
                f"{sets.mean_size:.2f}",
                percent(sets.single.share),
                percent(sets.worst_class),
            )
            for kind, sets in rows
        ),
        strong=frozenset(i for i, (kind, _) in enumerate(rows) if kind is found.chosen),
        note=f"{NAMES[found.chosen]} is served: its sets were smaller on the calibration photos. The most likely class "
        f"is always inside. {INTERVALS}",
    )


def risk_table(found: Answered) -> Table:
    """How well each score orders the images by the risk of a wrong prediction."""
    error = found.errors.share if found.errors is not None else 0.0
    return Table(
        caption="Which images to answer first: risk and coverage on ID test",
        head=("ordered by", "AURC, %", f"can be answered at {100 * error:.1f} % of errors, %"),
        rows=tuple((name, percent(risk.aurc, 2), percent(risk.answered)) for name, risk in found.risk.items()),
        strong=frozenset({list(found.risk).index(SERVED)}),
        note="AURC: mean error over all shares answered; lower is better. The last column takes a threshold chosen on "
        "these very images for each.",
    )


def by_class_table(found: Answered) -> Table:
    """Acceptance of every class, the least accepted first."""
    ordered = sorted(found.by_class.items(), key=lambda item: (item[1].share, item[0]))
    return Table(
        caption="Acceptance by true class, in percent",
        head=("class", "ID test accepted", "images"),
        rows=tuple((name, bracketed(part.share, (part.low, part.high)), f"{part.of:,}") for name, part in ordered),
        note=f"Mean of the classes {percent(found.mean_of_classes)}. {INTERVALS}",
    )


def risk_plot(found: Answered, *, name: str, alt: str) -> Plot:
    """The error among answers against the share answered, by each score."""

    def paint(figure: Figure) -> None:
        from matplotlib.ticker import PercentFormatter

        axes = figure.subplots(1, 1)
        for index, (label, risk) in enumerate(found.risk.items()):
            x, y = np.array(risk.curve).T
            if label == SERVED:
                axes.plot(x, y, color=INK, linewidth=2.2, label=label)
            else:
                axes.plot(x, y, color=colour(index - 1), linestyle=dash(index - 1), label=label)
        if found.errors is not None:
            answer = found.decisions[Decision.ANSWER].share
            axes.plot([answer], [found.errors.share], color=INK, marker="o", linestyle="none", label="as served")
        axes.axhline(found.max_error, color=INK, linestyle=(0, (2, 2)), linewidth=1.0)
        axes.set(title="errors among answers", xlabel="share of ID test answered", xlim=(0, 1))
        axes.set_ylim(0, None)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="best")

    return draw(paint, name=name, alt=alt, height=3.6)


def answer_findings(evaluation: Evaluation) -> Iterator[Finding]:
    """What to know of the answers before trusting them."""
    found, accept = evaluation.answered, evaluation.accept
    if found is None:
        return
    if found.errors is None:
        yield Finding(
            "weak",
            f"{errors_sentence(found)} Ask for a higher --max-error, or add photos of the classes that are confused.",
        )
    elif found.errors.share > found.promised_errors[1]:
        yield Finding(
            "weak",
            f"More answers are wrong than asked for: {errors_sentence(found)} The test photos differ from those that "
            "trained in more than chance: ask for a lower --max-error, or train with photos like those that will "
            "arrive.",
        )
    else:
        yield Finding(
            "good",
            f"{percent(found.decisions[Decision.ANSWER].share)} of ID test images are answered, "
            f"{percent(found.decisions[Decision.UNSURE].share)} are unsure. {errors_sentence(found)}",
        )
    served = next(sets for sets in found.label_sets[found.chosen] if sets.coverage == 0.9)
    if served.covered.share < served.promised[0]:
        yield Finding(
            "weak",
            f"Label sets hold the true class less often than asked for: {percent(served.covered.share)} at a coverage "
            f"of {100 * served.coverage:g} %, where {interval(*served.promised)} was to be expected. Ask for a higher "
            "--coverage, or train with photos like those that will arrive.",
        )
    low = worse_classes(found.by_class, accept - LESS)
    if low:
        listed = ", ".join(
            f"{name} ({percent(found.by_class[name].share, 0)} of {found.by_class[name].of}"
            + "".join(f"; {photos}" for photos in [photos_of(evaluation, name)] if photos)
            + ")"
            for name in low[:NAMED]
        )
        more = f" and {len(low) - NAMED} more" if len(low) > NAMED else ""
        yield Finding(
            "weak",
            f"Accepted clearly less often than others: {listed}{more}. Their test photos differ from their training "
            f"photos. {collect(evaluation, list(low))}",
        )

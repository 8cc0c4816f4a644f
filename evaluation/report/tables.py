"""An evaluation's numbers as tables, but for those of the first screen (`at_threshold.py`)."""

from __future__ import annotations

from oodguard.core.scores import SCORES
from oodguard.evaluation.ablation import WHOLE
from oodguard.evaluation.evaluation import DetectionTable, Evaluation
from oodguard.evaluation.evidence import FUSED
from oodguard.pages.page import Table
from oodguard.pages.text import DASH, bracketed, count, percent, signed
from oodguard.training.metrics import Share

MOST_CONFUSIONS = 20
MOST_CLASSES = 15
NONE = "-"
INTERVALS = "In brackets: 95 % intervals"


def detection_table(name: str, table: DetectionTable) -> Table:
    """Every score on one OOD set."""
    prevalence = next(iter(table.scores.values())).ood_prevalence
    return Table(
        caption=f"{name}: every score over all thresholds, in percent ({count(table.images, 'image')})",
        head=(
            "score",
            "AUROC",
            "FPR95: OOD accepted at 95 % ID",
            "FPR95: ID flagged at 95 % OOD",
            "AUPR-in",
            "AUPR-out",
        ),
        rows=tuple(
            (
                score,
                bracketed(d.auroc, d.auroc_interval),
                bracketed(d.ood_accepted_at_95_id, d.ood_accepted_interval),
                _figure(d.id_flagged_at_95_ood),
                _figure(d.aupr_in),
                _figure(d.aupr_out),
            )
            for score, d in table.scores.items()
        ),
        strong=frozenset({list(table.scores).index(FUSED)}),
        note=f"A random score's AUPR-out is the OOD prevalence, {percent(prevalence)}. {INTERVALS}: DeLong's for "
        "AUROC, Clopper-Pearson's for shares of OOD images with the threshold taken as given.",
    )


def ablation_table(name: str, table: DetectionTable) -> Table:
    """The fused score with parts left out, on one OOD set."""
    return Table(
        caption=f"{name}: the fused score with parts left out, in percent",
        head=("variant", "AUROC", "change of AUROC, points", "FPR95", "ID test accepted", "flagged at its threshold"),
        rows=tuple(
            (
                variant,
                bracketed(a.auroc, a.auroc_interval),
                NONE
                if variant == WHOLE
                else f"{signed(100 * a.auroc_change.change)} "
                f"({signed(100 * a.auroc_change.low)} to {signed(100 * a.auroc_change.high)})",
                bracketed(a.ood_accepted_at_95_id, a.ood_accepted_interval),
                _share(a.id_accepted),
                _share(a.ood_flagged),
            )
            for variant, a in table.ablation.items()
        ),
        strong=frozenset({list(table.ablation).index(WHOLE)}),
        note="Each variant's threshold is set on the calibration images alone. Every single score on its own is in the "
        f"table of all scores. {INTERVALS}; the change's is DeLong's for the same images scored twice.",
    )


def thresholds_table(found: Evaluation) -> Table:
    """What every score means, its threshold, and what it accepts of the test images."""
    meanings = {spec.name.value: f"{spec.title}: {spec.meaning}" for spec in SCORES}
    return Table(
        caption=f"Thresholds for {100 * found.accept:g} % acceptance, and the percentage of ID test they accept",
        head=("score", "threshold", "ID test accepted", "what it measures (higher = more OOD)"),
        rows=tuple(
            (
                name,
                f"{found.thresholds[name]:.4g}",
                _share(accepted),
                meanings.get(
                    name,
                    "the guard's decision: all calibrated scores in one number; an image above the threshold is OOD",
                ),
            )
            for name, accepted in found.acceptance.items()
        ),
        words=frozenset({3}),
        strong=frozenset({list(found.acceptance).index(FUSED)}),
        note=f"Thresholds come from {count(found.calibration_images, 'calibration image')}, scored by heads that did "
        f"not see them, in {count(found.calibration_groups, 'group')} of near-duplicates. "
        f"{INTERVALS}.",
    )


def operating_table(found: Evaluation) -> Table:
    """What each target acceptance costs."""
    sets = list(found.ood)
    return Table(
        caption="Choosing the target acceptance (all but the threshold in percent)",
        head=(
            "target",
            "threshold",
            "promised",
            "ID test accepted",
            "accuracy of what is accepted",
            *(f"{name} accepted" for name in sets),
        ),
        rows=tuple(
            (
                f"{100 * point.accept:g}",
                f"{point.threshold:.4g}",
                f"{100 * point.promised[0]:.1f}{DASH}{100 * point.promised[1]:.1f}",
                _share(point.id_accepted),
                _share(point.accuracy),
                *(_share(point.ood_accepted[name]) for name in sets),
            )
            for point in found.operating_points
        ),
        strong=frozenset(i for i, point in enumerate(found.operating_points) if point.accept == found.accept),
        note="The target can be chosen anew for every request. Promised: where the acceptance of new ID images lies "
        f"with 95 % probability. {INTERVALS}.",
    )


def confusions_table(found: Evaluation) -> Table:
    """The most frequent wrong predictions."""
    return Table(
        caption="The most frequent confusions",
        head=("true class", "predicted", "images", "of the class, %"),
        rows=tuple(
            (c.true, c.predicted, f"{c.images:,} of {c.of:,}", _figure(c.images / c.of))
            for c in found.confusions[:MOST_CONFUSIONS]
        ),
        words=frozenset({1}),
    )


def recalls_table(found: Evaluation) -> Table:
    """The classes that are predicted worst."""
    worst = sorted(found.recalls.items(), key=lambda item: (item[1].share, item[0]))[:MOST_CLASSES]
    return Table(
        caption="The classes predicted worst" if len(worst) < len(found.recalls) else "All classes, the worst first",
        head=("true class", "images", "predicted rightly, %"),
        rows=tuple((name, f"{recall.of:,}", _share(recall)) for name, recall in worst),
        note=f"{INTERVALS} (Clopper-Pearson).",
    )


def diversity_table(found: Evaluation) -> Table:
    """Disagreement and PDS by set."""
    d = found.diversity
    return Table(
        caption="Disagreement of the members, and the score it makes, by set",
        head=("set", "mean pairwise disagreement, %", "PDS 5 %", "25 %", "median", "75 %", "95 %"),
        rows=tuple(
            (name, _figure(rate), *(f"{value:.4f}" for value in d.pds[name]))
            for name, rate in d.mean_disagreement.items()
        ),
        note=f"PDS lies between {d.pds_range[0]:.4f} (all members agree) and {d.pds_range[1]:.4f} (each is sure of "
        "another class).",
    )


def versions_table(found: Evaluation) -> Table:
    """The packages that can change a number."""
    return Table(
        caption="Versions at evaluation",
        head=("package", "version"),
        rows=tuple(found.versions.items()),
        words=frozenset({1}),
    )


def _share(found: Share | None) -> str:
    return NONE if found is None else bracketed(found.share, (found.low, found.high))


def _figure(share: float) -> str:
    return f"{100 * share:.1f}"

"""Tables of what happens at the thresholds that are served, and of what chose the fused score."""

from __future__ import annotations

from oodguard.core.fusion import MIN_LEFT_OUT_AUROC
from oodguard.core.scores import REGISTRY, Family, ScoreName
from oodguard.evaluation.comparison import points
from oodguard.evaluation.evaluation import DetectionTable, Evaluation, FusedParts
from oodguard.evaluation.evidence import FUSED
from oodguard.evaluation.extremes import ID
from oodguard.evaluation.threshold import AtThreshold, best
from oodguard.evaluation.trainings import Repeats, Scatter
from oodguard.pages.page import Table
from oodguard.pages.text import bracketed, count, percent
from oodguard.training.metrics import Change, Share

NONE = "-"
BASELINE = "baseline: "


def overview(found: Evaluation) -> Table:
    """Every OOD set in one row: what the fused score lets in, and the best single score and baseline beside it."""
    return Table(
        caption="What is let in at the threshold, by OOD set, in percent",
        head=("OOD set", "images", "let in", "best single score", "best baseline", "fused less it, points", "AUROC"),
        rows=tuple(
            (
                name,
                f"{table.images:,}",
                _share(table.at_threshold[FUSED].let_in),
                _named(table.at_threshold),
                _named(table.baselines) if table.baselines else NONE,
                _change(table.baselines[best(table.baselines)].fused_less_this) if table.baselines else NONE,
                bracketed(table.scores[FUSED].auroc, table.scores[FUSED].auroc_interval),
            )
            for name, table in found.ood.items()
        ),
        words=frozenset({3, 4}),
        note="Lower is better; below 0 points the fused score lets in fewer than the best baseline. In brackets: 95 % "
        "intervals, that of the difference for the same images; they take images to be independent, so near-duplicates "
        "make them too narrow. The best of several is chosen on these images, which flatters it. AUROC says how well "
        "the score could do over all thresholds.",
    )


def decided_table(found: Evaluation) -> Table:
    """Which family flags the images of each set."""
    draws = {f"left-out classes, {name}": table for name, table in found.leave_out.items()}
    sets = {ID: found.decided, **{name: table.decided for name, table in {**found.ood, **draws}.items()}}
    return Table(
        caption="Which family decides, in percent of the flagged images",
        head=("set", "flagged images", *Family),
        rows=tuple(
            (name, f"{decided.flagged:,}", *(_figure(decided.shares[family]) for family in Family))
            for name, decided in sets.items()
        ),
        note="A family decides where its term of the fused score is the larger one. Confidence finds near OOD, density "
        "far OOD; on ID test their shares should be near those that they were given.",
    )


def threshold_table(name: str, table: DetectionTable) -> Table:
    """Every score and baseline at its own threshold, on one OOD set."""
    rows = [(score, point) for score, point in table.at_threshold.items()]
    rows += [(BASELINE + baseline, point) for baseline, point in table.baselines.items()]
    return Table(
        caption=f"{name}: every score at its own threshold, in percent ({count(table.images, 'image')})",
        head=("score", "ID test accepted", "let in", "fused less this, points", "AUROC"),
        rows=tuple(
            (
                score,
                _share(point.accepted),
                _share(point.let_in),
                NONE if score == FUSED else _change(point.fused_less_this),
                _figure(point.auroc),
            )
            for score, point in rows
        ),
        strong=frozenset({list(table.at_threshold).index(FUSED)}),
        note="All thresholds are set for the same target on the calibration photos. Below 0 points the fused score "
        "lets in fewer than this one. In brackets: 95 % intervals, that of the difference for the same images.",
    )


def left_out_table(found: Evaluation) -> Table:
    """What every score and baseline lets in of the classes left out, by draw."""
    rows: dict[str, list[Share]] = {}
    for table in found.leave_out.values():
        for score, point in table.at_threshold.items():
            rows.setdefault(score, []).append(point.let_in)
        for baseline, point in table.baselines.items():
            rows.setdefault(BASELINE + baseline, []).append(point.let_in)
    return Table(
        caption="Let in of the classes left out, each score at its own threshold, in percent",
        head=("score", *(f"{name} ({count(t.images, 'image')})" for name, t in found.leave_out.items()), "mean"),
        rows=tuple(
            (name, *map(_share, shares), _figure(sum(share.share for share in shares) / len(shares)))
            for name, shares in rows.items()
        ),
        strong=frozenset({list(rows).index(FUSED)}),
        note="In brackets: 95 % intervals over the images of the draw.",
    )


def fusion_sentence(found: FusedParts, *, wrapped: str | None = None) -> str:
    """The shares, and where they come from."""
    shares = " and ".join(f"{family} {percent(share, 0)}" for family, share in found.shares.items())
    if found.check is None:
        return f"Of the false alarms {shares}, by default: " + (
            "the run was trained without a check on left-out classes (--check-folds 0)."
            if wrapped is None
            else f"there is no check on left-out classes, because {wrapped} learned its feature with the labels of all "
            "classes, and none can be left out of it any more."
        )
    return (
        f"Of the false alarms {shares}. Classes left out of the training photos chose that: {found.check.images:,} "
        f"photos of left-out classes in {count(found.check.folds, 'fold')}, against held-out photos of the others, "
        "with heads on the frozen feature. No image outside the training photos was used."
    )


def check_table(found: FusedParts) -> Table:
    """What each score is worth on left-out classes, and its part of the fused score."""
    check = found.check
    if check is None:
        return Table(
            caption="The scores of the fused score, in percent",
            head=("score", "family", "part of the fused score"),
            rows=tuple((name, REGISTRY[name].family, _part(found, name)) for name in found.weights),
            words=frozenset({1}),
        )
    return Table(
        caption="The scores on classes left out of training, and their part of the fused score, in percent",
        head=("score", "family", "AUROC", "let in where 95 % of ID are", "part of the fused score"),
        rows=tuple(
            (name, REGISTRY[name].family, f"{check.auroc[name]:.1f}", f"{check.let_in[name]:.1f}", _part(found, name))
            for name in check.auroc
        ),
        words=frozenset({1}),
        note=f"A confidence score whose AUROC is below {MIN_LEFT_OUT_AUROC:g} does not join. A density score joins all "
        "the same: it is there for far OOD, which no left-out class is.",
    )


def shares_table(found: FusedParts) -> Table:
    """The shares of the confidence family that were tried."""
    assert found.check is not None
    tried = found.check.shares
    chosen = found.shares[Family.CONFIDENCE]
    return Table(
        caption="What the fused score lets in of left-out classes, by the share of the confidence family, in percent",
        head=("share of confidence", "let in where 95 % of ID are"),
        rows=tuple((f"{100 * share:g}", f"{let_in:.1f}") for share, let_in in tried.items()),
        strong=frozenset(row for row, share in enumerate(tried) if abs(share - chosen) < 1e-9),
        note="The largest share within one standard error of the best is taken: the rest is density's.",
    )


def repeats_table(found: Repeats) -> Table:
    """The scatter over trainings."""
    figures = {
        "accuracy": found.accuracy,
        "ID test accepted": found.acceptance,
        **{f"{name} let in": scatter for name, scatter in found.let_in.items()},
    }
    return Table(
        caption=f"Over {count(len(found.seeds), 'training')} with other seeds, in percent",
        head=("figure", "lowest", "median", "highest", *(f"seed {seed}" for seed in found.seeds)),
        rows=tuple((name, *_scatter(scatter)) for name, scatter in figures.items()),
        note="Every training has thresholds of its own for the same target. Intervals elsewhere are over "
        "images; this is over trainings, and over draws of the test photos where the data has no test folder.",
    )


def _scatter(found: Scatter) -> tuple[str, ...]:
    return tuple(_figure(value) for value in (found.lowest, found.median, found.highest, *found.values))


def _part(found: FusedParts, name: ScoreName) -> str:
    if name in found.weights:
        return _figure(found.weights[name])
    failed = found.check is not None and name in found.check.failed
    return "left out: fails" if failed and REGISTRY[name].fused else NONE


def _named(found: dict[str, AtThreshold]) -> str:
    name = best(found)
    return f"{name}: {_figure(found[name].let_in.share)}"


def _change(change: Change) -> str:
    return points(change).replace(" points, ", " (") + ")"


def _share(found: Share) -> str:
    return bracketed(found.share, (found.low, found.high))


def _figure(share: float) -> str:
    return f"{100 * share:.1f}"

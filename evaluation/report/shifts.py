"""Mild shifts in a report: the tables, and the sentence on those that the guard takes for strangers."""

from __future__ import annotations

from collections.abc import Iterator

from oodguard.core.scores import Family
from oodguard.evaluation.comparison import points
from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.shifted import Shifted, ShiftTable
from oodguard.pages.page import Finding, Table
from oodguard.pages.text import bracketed, count, percent
from oodguard.training.metrics import Change, Share

NONE = "-"
# A shift is weak where more than so many times the promised share is flagged, by more than chance.
WEAK_TIMES = 2.0
LEADING = 3


def shifts_sentence(found: ShiftTable) -> str:
    """What was done, on how many photos."""
    return (
        f"Each row is the same {count(found.unshifted.flagged.of, 'test photo')} (at most {found.per_class} of each of "
        f"{count(found.classes, 'class')}) after one thing that cameras, shops and messengers do to a photo. It still "
        "shows what it showed, so the share flagged should stay what it was. Thresholds are those that are served."
    )


def shifts_table(found: ShiftTable) -> Table:
    """Flagged, its change, who decides, and accuracy, by shift."""
    return Table(
        caption="Test photos after mild shifts, in percent",
        head=(
            "shift",
            "made by",
            "flagged",
            "change, points",
            "flagged of right predictions",
            *(f"{family} decides" for family in Family),
            "accuracy",
            "change of accuracy, points",
        ),
        rows=tuple(
            (
                row.name,
                row.maker or NONE,
                _share(row.flagged),
                NONE if row is found.unshifted else _change(row.change),
                NONE if row.right_flagged is None else _share(row.right_flagged),
                *(f"{100 * row.decided.shares[family]:.1f}" if row.decided.flagged else NONE for family in Family),
                _share(row.accuracy),
                NONE if row is found.unshifted else _change(row.accuracy_change),
            )
            for row in found.rows
        ),
        words=frozenset({1}),
        strong=frozenset({0}),
        note="A family decides where its term of the fused score is the larger one, in percent of the flagged photos. "
        "A photo whose prediction a shift makes wrong is better flagged than not; the share flagged of those "
        "that are still predicted rightly is what the shift costs. In brackets: 95 % intervals, those of the changes "
        "for the same photos.",
    )


def scores_over(found: ShiftTable) -> Table:
    """What share of the photos lies above each score's own threshold, by shift."""
    names = tuple(found.unshifted.over)
    return Table(
        caption="Shifted test photos above each score's own threshold, in percent",
        head=("shift", *names),
        rows=tuple((row.name, *(f"{100 * row.over[name]:.1f}" for name in names)) for row in found.rows),
        strong=frozenset({0}),
        note="The higher, the more of the flags are due to that score, if it is part of the fused score.",
    )


def shift_findings(found: Evaluation) -> Iterator[Finding]:
    """One line: which shifts are taken for strangers, and what decides; or that none is."""
    if found.shifts is None:
        return
    promised = 1.0 - found.accept
    weak = sorted(
        (row for row in found.shifts.shifts if row.flagged.low > WEAK_TIMES * promised),
        key=lambda row: -row.flagged.share,
    )
    plain = found.shifts.unshifted.flagged.share
    if weak:
        listed = "; ".join(f"{row.name}: {percent(row.flagged.share)} ({_because(row, found)})" for row in weak)
        yield Finding(
            "weak",
            f"Mild shifts of known photos are taken for strangers, more than twice the promised {100 * promised:.3g} % "
            f"({percent(plain)} as they are). {listed}. If such photos arrive, train with some of them: copies of "
            "training photos that were changed likewise, in the class folders.",
        )
        return
    worst = max(found.shifts.shifts, key=lambda row: row.flagged.share)
    yield Finding(
        "note" if worst.change.low > 0 else "good",
        f"Mild shifts of known photos are not taken for strangers: at most {percent(worst.flagged.share)} are flagged "
        f"({worst.name}; {percent(plain)} as they are).",
    )


def _because(row: Shifted, found: Evaluation) -> str:
    """The family that decides most, and the fused scores of which most photos lie above their own thresholds."""
    family = max(Family, key=lambda f: row.decided.shares[f])
    leading = sorted(found.fusion.weights, key=lambda name: -row.over[name])[:LEADING]
    return f"{family} decides {percent(row.decided.shares[family], 0)}; highest: {', '.join(leading)}"


def _share(found: Share) -> str:
    return bracketed(found.share, (found.low, found.high))


def _change(found: Change) -> str:
    return points(found).replace(" points, ", " (") + ")"

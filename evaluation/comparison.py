"""The guard against the baselines: by how much it is better or worse, in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from oodguard.evaluation.evidence import Evidence
from oodguard.evaluation.threshold import AtThreshold, best
from oodguard.pages.text import percent, signed
from oodguard.training.metrics import Change, Share, share, share_change


class BaselineComparison(BaseModel):
    """The guard against the baselines. `sentence` sums it up.

    `accuracy`: logistic regression's. `accuracy_change`: the guard's less that, on the same images. Both are None where
    the baselines were skipped; `skipped` says why. What they let in is in the tables of the OOD sets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: Share | None
    accuracy_change: Change | None
    skipped: str
    sentence: str


def compare_baselines(
    evidence: Evidence, guard: Mapping[str, AtThreshold], baselines: Mapping[str, Mapping[str, AtThreshold]]
) -> BaselineComparison:
    """guard: the fused score by OOD set. baselines: theirs, by set."""
    found = evidence.plain.baselines
    if found is None:
        why = evidence.plain.skipped
        return BaselineComparison(
            accuracy=None, accuracy_change=None, skipped=why, sentence=f"The baselines were skipped: {why}."
        )
    accuracy, change = share(found.right), share_change(found.right, evidence.right)
    parts = [
        *_sets(guard, baselines),
        f"accuracy {_word(change, higher='better', lower='worse')} ({percent(float(evidence.right.mean()))} against "
        f"{percent(accuracy.share)} by logistic regression: {points(change)})",
    ]
    return BaselineComparison(
        accuracy=accuracy,
        accuracy_change=change,
        skipped="",
        sentence="Against thirty lines of scikit-learn on the frozen feature, each at its own threshold, the guard is: "
        + "; ".join(parts)
        + ".",
    )


def points(change: Change) -> str:
    """A change of a share with its interval, in percentage points: `+0.8 points, -0.1 to +1.9`."""
    low, high = (signed(100 * bound, 1) for bound in (change.low, change.high))
    return f"{signed(100 * change.change, 1)} points, {low} to {high}"


def _sets(guard: Mapping[str, AtThreshold], baselines: Mapping[str, Mapping[str, AtThreshold]]) -> Iterator[str]:
    for name, found in baselines.items():
        rival = best(found)
        change = found[rival].fused_less_this
        yield (
            f"on {name} {_word(change, higher='worse', lower='better')} ({percent(guard[name].let_in.share)} let in "
            f"against {percent(found[rival].let_in.share)} by {rival}: {points(change)})"
        )


def _word(change: Change, *, higher: str, lower: str) -> str:
    return higher if change.low > 0 else lower if change.high < 0 else "level"

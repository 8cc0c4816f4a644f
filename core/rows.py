"""One image as one flat row: the columns of `oodguard score`, and of `oodguard predict --csv` and `--json`.

The names are those of the answer (`Prediction`). A field of a score is NAME_FIELD, a field of a problem error_FIELD,
one of the quality quality_FIELD.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from oodguard.core.bank import NEAREST
from oodguard.core.quality import TRAITS
from oodguard.core.verdict import Verdict

# The p-value of an image, and whether it is among the strangers that a false discovery rate names.
P_VALUE = "p_value"
NAMED = "stranger_at_fdr"

Cell = str | float | bool | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column and what is in it."""

    name: str
    kind: Literal["text", "texts", "float32", "float64", "flag"]


def columns(scores: Iterable[str], *, explained: bool = False, tested: bool = False) -> tuple[Column, ...]:
    """Every column, in order, for a model with these scores.

    `member` is the name inside an archive. explained: verdicts say why. tested: all rows together name strangers.
    """
    return (
        Column("path", "text"),
        Column("member", "text"),
        Column("label", "text"),
        Column("probability", "float32"),
        Column("decision", "text"),
        Column("labels", "texts"),
        Column("is_ood", "flag"),
        Column("ood_score", "float64"),
        Column("threshold", "float64"),
        Column("percentile", "float64"),
        *((Column(P_VALUE, "float64"), Column(NAMED, "flag")) if tested else ()),
        *(
            column
            for name in scores
            for column in (Column(f"{name}_value", "float32"), Column(f"{name}_is_ood", "flag"))
        ),
        *(_EXPLAINED if explained else ()),
        *(Column(f"quality_{trait}", "float32") for trait in TRAITS),
        Column("quality_reason", "text"),
        Column("error_code", "text"),
        Column("error_detail", "text"),
    )


_EXPLAINED = (
    Column("decided_by", "text"),
    *(
        column
        for place in range(1, NEAREST + 1)
        for column in (
            Column(f"neighbour{place}_label", "text"),
            Column(f"neighbour{place}_distance", "float32"),
            Column(f"neighbour{place}_sha256", "text"),
        )
    ),
)


def verdict_cells(verdict: Verdict) -> dict[str, Cell]:
    """The cells of an image that was judged."""
    row: dict[str, Cell] = {
        "label": verdict.label,
        "probability": verdict.probability,
        "decision": str(verdict.decision),
        "labels": verdict.labels,
        "is_ood": verdict.is_ood,
        "ood_score": verdict.ood_score,
        "threshold": verdict.threshold,
        "percentile": verdict.percentile,
    }
    for name, score in verdict.scores.items():
        row[f"{name}_value"] = score.value
        row[f"{name}_is_ood"] = score.is_ood
    if verdict.quality is not None:
        row |= {f"quality_{trait}": value for trait, value in verdict.quality}
    if verdict.explanation is not None:
        row["decided_by"] = verdict.explanation.decided_by
        for place, neighbour in enumerate(verdict.explanation.neighbours, 1):
            row[f"neighbour{place}_label"] = neighbour.label
            row[f"neighbour{place}_distance"] = neighbour.distance
            row[f"neighbour{place}_sha256"] = neighbour.sha256
    return row


def joined(labels: Iterable[str]) -> str:
    """A list of labels as one cell of text."""
    return "|".join(labels)


def error_cells(code: str, detail: str) -> dict[str, Cell]:
    """The cells of an image that could not be used."""
    return {"error_code": code, "error_detail": detail}

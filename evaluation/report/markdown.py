"""Evaluation results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from oodguard.evaluation.evaluation import DetectionTable, Evaluation, mean_table
from oodguard.evaluation.report import answers, at_threshold
from oodguard.evaluation.report.shifts import scores_over, shifts_sentence, shifts_table
from oodguard.evaluation.report.summary import findings
from oodguard.pages.page import Table

HEADER = (
    "| score | AUROC | FPR95: OOD accepted at 95 % ID | FPR95: ID flagged at 95 % OOD | AUPR-in | AUPR-out |\n"
    "|---|---|---|---|---|---|"
)


def to_markdown(found: Evaluation) -> str:
    """The whole evaluation, in percent."""
    low, high = found.promised
    lines = [
        f"# {found.title} (seed {found.seed})",
        "",
        f"Accuracy {_share(found.accuracy.share, found.accuracy.low, found.accuracy.high)} on {found.accuracy.of} test "
        f"images; members {', '.join(f'{100 * a:.1f}' for a in found.member_accuracy)}; expected calibration error "
        f"{100 * found.calibration_error:.1f}.",
        "",
        found.comparison.sentence,
        "",
        *(f"- **{finding.tone.capitalize()}** {finding.text}" for finding in findings(found)
          if finding.text != found.comparison.sentence),
        "",
        f"Target acceptance {100 * found.accept:g} % of ID images. With this many calibration images the acceptance "
        f"of this many test images lies in {100 * low:.1f}-{100 * high:.1f} % (95 % probability, exchangeable "
        "images). Realised on the test split, with 95 % confidence intervals:",
        "",
        "| score | accepted |\n|---|---|",
        *(f"| {name} | {_share(s.share, s.low, s.high)} |" for name, s in found.acceptance.items()),
    ]  # fmt: skip
    if found.answered is not None:
        parts = (answers.decisions_table, answers.risk_table, answers.label_sets_table, answers.chances_table)
        lines += ["", "## Answers", *(line for part in parts for line in ("", *as_markdown(part(found.answered))))]
        lines += ["", *as_markdown(answers.by_class_table(found.answered))]
    if found.ood:
        lines += ["", *as_markdown(at_threshold.overview(found)), "", *as_markdown(at_threshold.decided_table(found))]
    if found.repeats is not None:
        lines += ["", "## Other trainings", "", *as_markdown(at_threshold.repeats_table(found.repeats))]
    if found.shifts is not None:
        lines += ["", "## Mild shifts", "", shifts_sentence(found.shifts), "", *as_markdown(shifts_table(found.shifts))]
        lines += ["", *as_markdown(scores_over(found.shifts))]
    for name, table in {**found.ood, **{f"left-out classes, {k}": v for k, v in found.leave_out.items()}}.items():
        lines += ["", f"## {name} ({table.images} images)", "", *as_markdown(at_threshold.threshold_table(name, table))]
        lines += ["", *_rows(table)]
    if found.leave_out:
        means = mean_table(found.leave_out)
        lines += [
            "",
            f"## left-out classes, mean of {len(found.leave_out)} draws",
            "",
            *as_markdown(at_threshold.left_out_table(found)),
            "",
            "| score | AUROC |\n|---|---|",
            *(f"| {name} | {100 * value:.1f} |" for name, value in means.items()),
        ]
    lines += [
        "",
        "## What the fused score is made of",
        "",
        at_threshold.fusion_sentence(found.fusion, wrapped=found.wrapped),
        "",
    ]
    lines += as_markdown(at_threshold.check_table(found.fusion))
    if found.fusion.check is not None:
        lines += ["", *as_markdown(at_threshold.shares_table(found.fusion))]
    if found.leak:
        lines += [
            "",
            "What keeping near-duplicates together changes: test acceptance of a frozen-feature kNN threshold set for "
            "95 %.",
            "",
            *_grid(
                ("calibration split", *(f"k = {k}" for k in next(iter(found.leak.values())))),
                [(kind, *(f"{100 * share:.1f}" for share in by_k.values())) for kind, by_k in found.leak.items()],
            ),
        ]
    return "\n".join(lines) + "\n"


def as_markdown(table: Table) -> list[str]:
    """A table of the report: its caption, its rows (those that it emphasises in bold), and its note."""
    rows = [
        tuple(f"**{cell}**" for cell in row) if index in table.strong else row for index, row in enumerate(table.rows)
    ]
    return [f"{table.caption}:", "", *_grid(table.head, rows), *(["", table.note] if table.note else [])]


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |\n|{'---|' * len(head)}",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]


def _rows(table: DetectionTable) -> list[str]:
    prevalence = next(iter(table.scores.values())).ood_prevalence
    rows = [HEADER]
    for name, d in table.scores.items():
        figures = (d.auroc, d.ood_accepted_at_95_id, d.id_flagged_at_95_ood, d.aupr_in, d.aupr_out)
        rows.append(f"| {name} | " + " | ".join(f"{100 * figure:.1f}" for figure in figures) + " |")
    rows += [
        "",
        f"OOD prevalence (a random score's AUPR-out): {100 * prevalence:.1f} %.",
        "",
        "| ablation of the fused score | AUROC | OOD accepted at 95 % ID |\n|---|---|---|",
        *(
            f"| {name} | {100 * d.auroc:.1f} | {100 * d.ood_accepted_at_95_id:.1f} |"
            for name, d in table.ablation.items()
        ),
    ]
    return rows


def _share(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} % ({100 * low:.1f}-{100 * high:.1f})"

"""Evaluation results as Markdown."""

from __future__ import annotations

from oodguard.evaluation.evaluation import DetectionTable, Evaluation, mean_table

HEADER = (
    "| score | AUROC | FPR95: OOD accepted at 95 % ID | FPR95: ID flagged at 95 % OOD | AUPR-in | AUPR-out "
    "| flagged at the threshold |\n|---|---|---|---|---|---|---|"
)


def to_markdown(found: Evaluation) -> str:
    """The whole evaluation, in percent."""
    low, high = found.promised
    lines = [
        f"# Evaluation (seed {found.seed})",
        "",
        f"Accuracy {_share(found.accuracy.share, found.accuracy.low, found.accuracy.high)} on {found.accuracy.of} test "
        f"images; members {', '.join(f'{100 * a:.1f}' for a in found.member_accuracy)}; expected calibration error "
        f"{100 * found.calibration_error:.1f}.",
        "",
        f"Target acceptance {100 * found.accept:g} % of ID images. With this many calibration images the acceptance "
        f"of new ID images lies in {100 * low:.1f}-{100 * high:.1f} % (95 % probability, exchangeable images). "
        "Realised on the test split, with 95 % confidence intervals:",
        "",
        "| score | accepted |\n|---|---|",
        *(f"| {name} | {_share(s.share, s.low, s.high)} |" for name, s in found.acceptance.items()),
    ]
    if found.leak:
        lines += [
            "",
            "What keeping near-duplicates together changes: test acceptance of a frozen-feature kNN threshold set for "
            "95 %.",
            "",
            "| calibration split | k = 1 | k = 5 |\n|---|---|---|",
            *(
                f"| {kind} | {100 * found.leak[f'knn1_acceptance_{kind}_split']:.1f} "
                f"| {100 * found.leak[f'knn5_acceptance_{kind}_split']:.1f} |"
                for kind in ("random", "grouped")
            ),
        ]
    for name, table in {**found.ood, **{f"left-out classes, {k}": v for k, v in found.leave_out.items()}}.items():
        lines += ["", f"## {name} ({table.images} images)", "", *_rows(table)]
    if found.leave_out:
        means = mean_table(found.leave_out)
        lines += [
            "",
            f"## left-out classes, mean of {len(found.leave_out)} draws",
            "",
            "| score | AUROC |\n|---|---|",
            *(f"| {name} | {100 * value:.1f} |" for name, value in means.items()),
        ]
    return "\n".join(lines) + "\n"


def _rows(table: DetectionTable) -> list[str]:
    prevalence = next(iter(table.scores.values())).ood_prevalence
    rows = [HEADER]
    for name, d in table.scores.items():
        figures = (d.auroc, d.ood_accepted_at_95_id, d.id_flagged_at_95_ood, d.aupr_in, d.aupr_out, d.ood_flagged)
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

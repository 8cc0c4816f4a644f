"""The comparison as Markdown: mean and standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oodguard.bench.methods.catalogue import HEADLINES
from oodguard.bench.results.records import Mean, Record, Results, Trial, arenas, ood_sets

DIAGNOSTICS = (
    "diversity",
    "relative_diversity",
    "bias_share",
    "codependence_0.4",
    "mean_member_accuracy",
    "generalisation_gap",
)


@dataclass(frozen=True)
class Row:
    """One method with one of its scores in one arena: means over seeds; `auroc` and `fpr95` by OOD set."""

    method: str
    score: str
    accuracy: Mean
    seconds: Mean
    auroc: dict[str, Mean]
    fpr95: dict[str, Mean]


def rows(results: Results, arena: str, *, headlines_only: bool = True) -> list[Row]:
    """Rows of an arena, by method in the order of training; the severities of a corruption are merged."""
    found = []
    methods = dict.fromkeys(t.method for t in results.trials if t.arena == arena and t.failed is None)
    for method in methods:
        records = [r for r in results.records if r.arena == arena and r.method == method]
        trials = [t for t in results.trials if t.arena == arena and t.method == method and t.accuracy is not None]
        names = list(dict.fromkeys(r.score for r in records))
        if headlines_only:
            names = [n for n in HEADLINES.get(method, tuple(names[:1])) if n in names]
        for score in names:
            found.append(_row(method, score, trials, [r for r in records if r.score == score]))
    return found


def _row(method: str, score: str, trials: Sequence[Trial], records: Sequence[Record]) -> Row:
    by_set: dict[str, list[Record]] = {}
    for record in records:
        by_set.setdefault(column(record.ood, record.kind), []).append(record)
    return Row(
        method=method,
        score=score,
        accuracy=Mean.of(t.accuracy for t in trials if t.accuracy is not None),
        seconds=Mean.of(t.seconds for t in trials),
        auroc={name: _mean(found, "auroc") for name, found in by_set.items()},
        fpr95={name: _mean(found, "fpr95") for name, found in by_set.items()},
    )


def column(ood: str, kind: str) -> str:
    """The table's column for an OOD set; all severities of a corruption share one."""
    return f"{ood.rsplit(' ', 1)[0]} (1-5)" if kind == "covariate" else ood


def _mean(records: Sequence[Record], measure: str) -> Mean:
    """Over seeds: the mean over the OOD sets of a column."""
    seeds = sorted({r.seed for r in records})
    return Mean.of(
        sum(getattr(r, measure) for r in records if r.seed == seed) / sum(r.seed == seed for r in records)
        for seed in seeds
    )


@dataclass(frozen=True)
class Grid:
    """A table as text, for Markdown and HTML."""

    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]

    def lines(self) -> list[str]:
        """The table in Markdown, line by line."""
        return [
            f"| {' | '.join(self.head)} |",
            "|" + "---|" * len(self.head),
            *(f"| {' | '.join(row)} |" for row in self.body),
        ]


def columns(results: Results, arena: str) -> list[str]:
    """The table's columns of OOD sets, in their order."""
    return list(dict.fromkeys(column(name, kind) for name, kind in ood_sets(results.records, arena)))


def scores_grid(table: Sequence[Row], names: Sequence[str]) -> Grid:
    """Accuracy, `AUROC / FPR95` for every column of `names`, and seconds, one line per row."""
    return Grid(
        head=("method", "score", "accuracy", *names, "seconds"),
        body=tuple(
            (
                row.method,
                row.score,
                row.accuracy.percent(),
                *(f"{row.auroc[name].percent()} / {row.fpr95[name].percent()}" for name in names),
                f"{row.seconds.mean:.1f}",
            )
            for row in table
        ),
    )


def ensembles_grid(results: Results, arena: str) -> Grid | None:
    """The diagnostics of every ensemble in an arena, means over seeds; None where there is no ensemble."""
    trials = [t for t in results.trials if t.arena == arena and "diversity" in t.diagnostics]
    if not trials:
        return None
    body = []
    for method in dict.fromkeys(t.method for t in trials):
        mine = [t for t in trials if t.method == method]
        # Rounding errors leave -0 or 1e-17 where the value is 0.
        means = (round(Mean.of(t.diagnostics[name] for t in mine).mean, 9) + 0.0 for name in DIAGNOSTICS)
        cells = (f"{mean:.3g}" for mean in means)
        body.append((method, *cells, f"{sum(t.diagnostics['colluding'] > 0 for t in mine)} of {len(mine)}"))
    return Grid(head=("method", *(name.replace("_", " ") for name in DIAGNOSTICS), "colluding"), body=tuple(body))


def to_markdown(results: Results) -> str:
    """All arenas: each method's own scores against every OOD set as `AUROC / FPR95` in percent."""
    lines = [
        f"# {results.suite}{' (quick)' if results.quick else ''}",
        "",
        f"Seeds {', '.join(map(str, results.seeds))}; {results.machine}; {results.created}. Cells: AUROC / FPR95 in "
        "percent (FPR95: OOD accepted when 95 % of ID test images are), mean ± standard deviation over seeds.",
        "",
        f"    {results.command}",
    ]
    for arena in arenas(results):
        table = rows(results, arena)
        if not table:
            continue
        lines += ["", f"## {arena}", "", *scores_grid(table, columns(results, arena)).lines()]
        lines += _ensembles(results, arena) + _gradients(results, arena) + _failures(results, arena)
    return "\n".join(lines) + "\n"


def _ensembles(results: Results, arena: str) -> list[str]:
    grid = ensembles_grid(results, arena)
    return [] if grid is None else ["", f"Ensembles in {arena}, on calibration images:", "", *grid.lines()]


def _gradients(results: Results, arena: str) -> list[str]:
    trials = [t for t in results.trials if t.arena == arena and "gradient_norm" in t.diagnostics]
    if not trials:
        return []
    means = {
        method: Mean.of(t.diagnostics["gradient_norm"] for t in trials if t.method == method).mean
        for method in dict.fromkeys(t.method for t in trials)
    }
    return [
        "",
        f"Mean norm of the energy's gradient on calibration images in {arena}: "
        + ", ".join(f"{method} {norm:.3g}" for method, norm in means.items())
        + ".",
    ]


def _failures(results: Results, arena: str) -> list[str]:
    return [
        f"\n{t.method}, seed {t.seed}: no result: {t.failed}." for t in results.trials if t.arena == arena and t.failed
    ]

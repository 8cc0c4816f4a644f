"""What a comparison leaves for people: `results.md`, and `report.html`, one page that loads nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy

from oodguard.bench.results.dots import dot_plot, severity_plot
from oodguard.bench.results.files import HTML_FILE, MARKDOWN_FILE, RESULTS_FILE, TrialFiles, write_text
from oodguard.bench.results.records import Results, arenas, ood_sets
from oodguard.bench.results.table import Row, columns, ensembles_grid, rows, scores_grid, to_markdown
from oodguard.core.curve import Scores
from oodguard.evaluation.evidence import FUSED
from oodguard.evaluation.report.densities import density_plot
from oodguard.evaluation.report.detection_curves import detection_curves
from oodguard.pages.page import (
    Block,
    CodeBlock,
    Fact,
    Facts,
    Finding,
    Findings,
    Illustration,
    Page,
    Prose,
    Section,
    Table,
)
from oodguard.pages.page import render as render_page
from oodguard.pages.text import count, plain, signed
from oodguard.training.metrics import auroc

# What "at or within" means where the fused score is held against the best single one, in points of AUROC.
WITHIN = 0.005


def write_report(results: Results, out: Path) -> tuple[Path, ...]:
    """Write `results.md` and `report.html` beside `results.json`. Returns all three; raises `EnvironmentProblem`."""
    write_text(out / MARKDOWN_FILE, plain(to_markdown(results)))
    write_text(out / HTML_FILE, to_html(results, out))
    return out / RESULTS_FILE, out / MARKDOWN_FILE, out / HTML_FILE


def to_html(results: Results, out: Path) -> str:
    """The page; its densities and curves come from the scores of the first seed, which the trials in `out` hold."""
    return render_page(
        Page(
            title=f"Comparison on {results.suite}",
            subtitle=f"{count(len(results.seeds), 'seed')}{', quick' if results.quick else ''}; {results.created}",
            first=_first(results),
            sections=(*(_arena(results, arena, out) for arena in arenas(results)), _made(results)),
            footer="AUROC and FPR95 in percent; FPR95 is the share of OOD images accepted when 95 % of ID images are.",
        )
    )


def _first(results: Results) -> tuple[Block, ...]:
    methods = list(dict.fromkeys(t.method for t in results.trials))
    facts = (
        Fact(name="methods", value=str(len(methods))),
        Fact(name="seeds", value=str(len(results.seeds))),
        Fact(name="OOD sets", value=str(len({(r.arena, r.ood) for r in results.records}))),
        Fact(name="training", value=f"{sum(t.seconds for t in results.trials) / 60:.0f} min", detail=results.machine),
    )
    found = [finding for arena in arenas(results) for finding in fused_findings(results, arena)]
    failed = [Finding("weak", f"{t.arena}: {t.method}: {t.failed}") for t in results.trials if t.failed]
    return (Facts(facts), Findings((*found, *failed)))


def fused_findings(results: Results, arena: str) -> list[Finding]:
    """For every OOD set: the fused score of the guard against the best single score of any method, mean AUROC."""
    table = rows(results, arena, headlines_only=False)
    fused = next((row for row in table if row.method == FUSED and row.score == FUSED), None)
    if fused is None:
        return []
    findings = []
    for name, mean in fused.auroc.items():
        others = [row for row in table if row is not fused and name in row.auroc]
        if not others:
            continue
        best = max(others, key=lambda row: row.auroc[name].mean)
        gap = mean.mean - best.auroc[name].mean
        text = (
            f"{arena}, {name}: fused {mean.percent()}, best single {best.method} / {best.score} "
            f"{best.auroc[name].percent()} ({signed(100 * gap, 1)})"
        )
        findings.append(Finding("good" if gap >= -WITHIN else "weak", text))
    return findings


def _arena(results: Results, arena: str, out: Path) -> Section:
    table = rows(results, arena)
    if not table:
        return Section(arena.capitalize(), (Findings((Finding("weak", "no method finished"),)),))
    names = columns(results, arena)
    slug = "".join(c if c.isalpha() else "-" for c in arena)
    blocks: list[Block] = [
        Illustration(
            plot=dot_plot(table, names, name=f"dots-{slug}", alt=_dots_alt(table, names)),
            caption="AUROC of every method by its own scores; bars: one standard deviation over seeds.",
        ),
        _table(arena, table, names),
    ]
    shifted = severity_plot(results, arena, name=f"severity-{slug}")
    if shifted is not None:
        blocks.append(Illustration(plot=shifted, caption="Accuracy as corruption grows (mean over corruptions)."))
    ensembles = _ensembles(results, arena)
    if ensembles is not None:
        blocks.append(ensembles)
    blocks += _fused_plots(results, arena, out, slug)
    return Section(arena.capitalize(), tuple(blocks))


def _dots_alt(table: list[Row], names: list[str]) -> str:
    best = [max(table, key=lambda row: row.auroc[name].mean) for name in names]
    return "Best by OOD set: " + "; ".join(
        f"{name}: {row.method} / {row.score} {row.auroc[name].percent()}" for name, row in zip(names, best, strict=True)
    )


def _table(arena: str, table: list[Row], names: list[str]) -> Table:
    grid = scores_grid(table, names)
    return Table(
        caption=f"{arena.capitalize()}: AUROC / FPR95 in percent, mean ± standard deviation over seeds",
        head=grid.head,
        rows=grid.body,
        words=frozenset({1}),
        strong=frozenset(i for i, row in enumerate(table) if row.method == FUSED),
    )


def _ensembles(results: Results, arena: str) -> Table | None:
    grid = ensembles_grid(results, arena)
    if grid is None:
        return None
    return Table(
        caption="Ensembles on calibration images",
        head=grid.head,
        rows=grid.body,
        note="Diversity in nats; codependence is the rise of the loss when 40 % of the members are dropped.",
    )


def _fused_plots(results: Results, arena: str, out: Path, slug: str) -> list[Block]:
    path = TrialFiles(out, arena, results.seeds[0], FUSED).scores
    if not path.is_file():
        return []
    arrays = {name: np.asarray(v, dtype=np.float64) for name, v in safetensors.numpy.load_file(path).items()}
    id_scores = {name.removeprefix("test/"): v for name, v in arrays.items() if name.startswith("test/")}
    thresholds = {
        name.removeprefix("threshold/"): float(v) for name, v in arrays.items() if name.startswith("threshold/")
    }
    ood_scores: dict[str, dict[str, Scores]] = {
        name: {score: arrays[f"{name}/{score}"] for score in id_scores}
        for name, kind in ood_sets(results.records, arena)
        if kind != "covariate"
    }
    if not ood_scores:
        return []
    shown = {
        score: {"ID test": values, **{name: of[score] for name, of in ood_scores.items()}}
        for score, values in id_scores.items()
    }
    densities = Illustration(
        plot=density_plot(
            shown, thresholds, name=f"densities-{slug}", alt="Densities of every score, ID against each OOD set."
        ),
        caption="Where each score's values lie; the line is the threshold that accepts 95 % of calibration images.",
    )
    curves = [
        _curves(name, f"curves-{slug}-{'abcdefgh'[number % 8]}", id_scores, of)
        for number, (name, of) in enumerate(ood_scores.items())
    ]
    return [Prose(f"The guard as served, seed {results.seeds[0]}:"), densities, *curves]


def _curves(ood: str, name: str, id_scores: dict[str, Scores], ood_scores: dict[str, Scores]) -> Illustration:
    areas = {score: auroc(id_scores[score], ood_scores[score]) for score in id_scores}
    best = max(areas, key=lambda score: areas[score])
    return Illustration(
        plot=detection_curves(
            id_scores,
            ood_scores,
            areas,
            title=plain(ood),
            name=name,
            alt=f"{ood}: fused AUROC {100 * areas[FUSED]:.1f}; best score {best} {100 * areas[best]:.1f}.",
        ),
        caption=f"{ood}: ROC and detection-error curves.",
    )


def _made(results: Results) -> Section:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return Section("How it was made", (CodeBlock(results.command), Prose(f"{results.machine}; {versions}.")))

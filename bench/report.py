"""The comparison as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy

from oodguard.bench.dots import dot_plot, severity_plot
from oodguard.bench.results import Results, arenas, sets
from oodguard.bench.runner import scores_path
from oodguard.bench.table import Row, columns, ensembles_grid, rows, scores_grid
from oodguard.core.curve import Scores
from oodguard.evaluation.evidence import FUSED
from oodguard.evaluation.report.densities import density_plot
from oodguard.evaluation.report.detection_curves import detection_curves
from oodguard.pages.page import Block, Code, Fact, Facts, Finding, Findings, Illustration, Page, Prose, Section, Table
from oodguard.pages.page import render as render_page
from oodguard.pages.text import count, plain, signed
from oodguard.training.metrics import auroc

# What "at or within" means where the fused score is held against the best single one, in points of AUROC.
WITHIN = 0.005


def to_html(results: Results, out: Path) -> str:
    """The page; the score arrays of seed 0 are read from the trials in `out`."""
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
        caption="Ensembles on held-out images",
        head=grid.head,
        rows=grid.body,
        note="Diversity in nats; codependence is the rise of the loss when 40 % of the members are dropped.",
    )


def _fused_plots(results: Results, arena: str, out: Path, slug: str) -> list[Block]:
    path = scores_path(out, arena, results.seeds[0], FUSED)
    if not path.is_file():
        return []
    kept = {name: np.asarray(v, dtype=np.float64) for name, v in safetensors.numpy.load_file(path).items()}
    inside = {name.removeprefix("test/"): v for name, v in kept.items() if name.startswith("test/")}
    thresholds = {
        name.removeprefix("threshold/"): float(v) for name, v in kept.items() if name.startswith("threshold/")
    }
    outside: dict[str, dict[str, Scores]] = {
        name: {score: kept[f"{name}/{score}"] for score in inside}
        for name, kind in sets(results.records, arena)
        if kind != "covariate"
    }
    if not outside:
        return []
    shown = {score: {"ID test": inside[score], **{n: v[score] for n, v in outside.items()}} for score in inside}
    blocks: list[Block] = [
        Prose(f"The guard as served, seed {results.seeds[0]}:"),
        Illustration(
            plot=density_plot(
                shown, thresholds, name=f"densities-{slug}", alt="Densities of every score, ID against each OOD set."
            ),
            caption="Where each score's values lie; the line is the threshold that accepts 95 % of held-out ID images.",
        ),
    ]
    for number, (name, values) in enumerate(outside.items()):
        areas = {score: auroc(inside[score], values[score]) for score in inside}
        best = max(areas, key=lambda score: areas[score])
        blocks.append(
            Illustration(
                plot=detection_curves(
                    inside,
                    values,
                    areas,
                    title=plain(name),
                    name=f"curves-{slug}-{'abcdefgh'[number % 8]}",
                    alt=f"{name}: fused AUROC {100 * areas[FUSED]:.1f}; best score {best} {100 * areas[best]:.1f}.",
                ),
                caption=f"{name}: ROC and detection-error curves.",
            )
        )
    return blocks


def _made(results: Results) -> Section:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return Section("How it was made", (Code(results.command), Prose(f"{results.machine}; {versions}.")))

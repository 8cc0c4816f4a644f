"""`oodguard predict`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from oodguard.cli.terminal import Terminal
from oodguard.clients.http import Client
from oodguard.core.answers import Prediction
from oodguard.core.codes import Code
from oodguard.core.errors import InputError
from oodguard.core.explanation import Explanation
from oodguard.core.formats import IMAGE_SUFFIXES
from oodguard.core.problems import Problem
from oodguard.core.rows import Cell, columns, error_cells, joined, verdict_cells
from oodguard.core.targets import Asked
from oodguard.core.text import cell, json_line, visible
from oodguard.core.verdict import Decision

COLOURS = {Decision.ANSWER: "green", Decision.UNSURE: "yellow", Decision.STRANGER: "bold red"}
PATH_WIDTH = 20
SOME_FAILED = 1
FOUND_OOD = 10


def predict(
    images: Annotated[list[Path], Parameter(help="Image files and folders of images.")],
    /,
    *,
    url: Annotated[
        str, Parameter(help="Address of the server; unix:/run/og.sock for a Unix socket.")
    ] = "http://localhost:8000",
    key: Annotated[str | None, Parameter(help="API key; better given as OODGUARD_PREDICT_KEY.")] = None,
    accept: Annotated[float | None, Parameter(help="Target acceptance of ID images; default: the server's.")] = None,
    source: Annotated[
        str | None, Parameter(help="Source of the server's bundle whose calibration judges, such as a camera.")
    ] = None,
    confidence: Annotated[
        float | None, Parameter(help="How sure the target acceptance is to be kept; default: the server's.")
    ] = None,
    coverage: Annotated[
        float | None, Parameter(help="Chance that a label set holds the true class; default: the server's.")
    ] = None,
    max_error: Annotated[
        float | None, Parameter(help="Largest share of wrong labels among answers; default: the server's.")
    ] = None,
    explain: Annotated[
        bool,
        Parameter(help="Say which family of scores decided, and name the nearest training photos.", negative=""),
    ] = False,
    json_lines: Annotated[bool, Parameter(name="--json", help="Print one JSON object per line.", negative="")] = False,
    csv_rows: Annotated[bool, Parameter(name="--csv", help="Print comma-separated values.", negative="")] = False,
    fail_on_ood: Annotated[bool, Parameter(help="Exit with code 10 if any image is OOD.", negative="")] = False,
) -> int:
    """Ask a server about image files and folders.

    Exit code: 0 all answered, 1 some images could not be used, 2 bad input, 3 no server answers, 10 an image is OOD
    (with --fail-on-ood).

    Example: oodguard predict photo.jpg some/folder --url http://localhost:8000
    """
    if json_lines and csv_rows:
        raise InputError("--json and --csv exclude each other; choose one")
    paths = _files(images)
    asked = Asked(accept=accept, confidence=confidence, coverage=coverage, max_error=max_error)
    results: list[tuple[Path, Prediction | Problem]] = []
    shown = Progress(console=Terminal(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with Client(url, key=key) as client, shown:
        task = shown.add_task("images", total=len(paths))
        for path, result in zip(paths, client.stream(paths, source=source, explain=explain, **asked), strict=True):
            shown.advance(task)
            if result.problem is not None and result.problem.code == Code.BAD_PARAMETER:
                raise InputError(result.problem.detail)
            found = result.prediction or result.problem
            if found is not None:
                results.append((path, found))
    judged = [(path, found) for path, found in results if isinstance(found, Prediction)]
    failures = [(path, found) for path, found in results if isinstance(found, Problem)]
    if json_lines:
        _print_json(results)
    elif csv_rows:
        _print_csv(results, explained=explain)
    elif judged:
        _print_table(judged, explained=explain)
    errors = Terminal(stderr=True, soft_wrap=True)
    for path, failure in failures:
        errors.print(f"[red]{escape(visible(str(path)))}[/]: {escape(visible(failure.detail))}", highlight=False)
    if failures:
        return SOME_FAILED
    return FOUND_OOD if fail_on_ood and any(p.is_ood for _, p in judged) else 0


def _print_json(results: Sequence[tuple[Path, Prediction | Problem]]) -> None:
    for path, found in results:
        if isinstance(found, Prediction):
            unasked = {"explanation"} if found.explanation is None else set()
            row = found.model_dump(mode="json", exclude={"index", "file", *unasked})
        else:
            row = error_cells(found.code, found.detail)
        print(json_line({"path": str(path), **row}))


def _print_csv(results: Sequence[tuple[Path, Prediction | Problem]], *, explained: bool) -> None:
    scores = next((found.scores for _, found in results if isinstance(found, Prediction)), {})
    names = [column.name for column in columns(scores, members=False, explained=explained)]
    writer = csv.writer(sys.stdout)
    writer.writerow(names)
    for path, found in results:
        cells = verdict_cells(found) if isinstance(found, Prediction) else error_cells(found.code, found.detail)
        row: dict[str, Cell] = {"path": str(path), **cells}
        writer.writerow([_written(row.get(name)) for name in names])


def _written(value: Cell) -> str | float | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        value = joined(value)
    return cell(value) if isinstance(value, str) else value


def _print_table(judged: Sequence[tuple[Path, Prediction]], *, explained: bool) -> None:
    table = Table()
    for column, right in (
        ("path", 0),
        ("label", 0),
        ("probability", 1),
        ("decision", 0),
        ("ood_score", 1),
        ("threshold", 1),
        *((("decided by", 0), ("nearest training photos", 0)) if explained else ()),
    ):
        # Long label sets are folded before paths are.
        least = PATH_WIDTH if column == "path" and not explained else None
        table.add_column(column, justify="right" if right else "left", overflow="fold", min_width=least)
    for path, p in judged:
        table.add_row(
            escape(visible(str(path))),
            escape(visible(_labels(p))),
            f"{p.probability:.3f}",
            f"[{COLOURS[p.decision]}]{p.decision}[/]",
            f"{p.ood_score:.2f}",
            f"{p.threshold:.2f}",
            *(_reasons(p.explanation) if p.explanation else ()),
        )
    Terminal().print(table)


def _labels(found: Prediction) -> str:
    """The label set of an unsure image, the label of any other."""
    others = (found.labels or ())[1:] if found.decision is Decision.UNSURE else ()
    return f"{found.label} or {', '.join(others)}" if others else found.label


def _reasons(explanation: Explanation) -> tuple[str, str]:
    near = ", ".join(f"{escape(visible(one.label))} {one.distance:.3f}" for one in explanation.neighbours)
    return explanation.decided_by, near


def _files(images: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            if not inside:
                raise InputError(f"{path} has no images ({', '.join(IMAGE_SUFFIXES)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path} does not exist")
    if not found:
        raise InputError("give at least one image file or folder")
    return found

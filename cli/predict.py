"""`oodguard predict`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from oodguard.cli.artefacts import Artefact
from oodguard.cli.groups import group
from oodguard.cli.inputs import expect
from oodguard.cli.output import Output, say, say_error
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.clients.errors import ServerUnreachable
from oodguard.clients.http import Client
from oodguard.core.answers import Prediction
from oodguard.core.codes import Code
from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.explanation import Explanation
from oodguard.core.formats import FORMAT_NAMES, HEAD, IMAGE_SUFFIXES, format_of
from oodguard.core.problems import Problem
from oodguard.core.rows import Cell, columns, error_cells, joined, verdict_cells
from oodguard.core.targets import Asked
from oodguard.core.text import cell, json_line, visible
from oodguard.core.verdict import Decision

COLOURS = {Decision.ANSWER: "green", Decision.UNSURE: "yellow", Decision.STRANGER: "bold red"}
LABEL_WIDTH = 8
# What a path of 16 characters, the numbers and the lines take of the width of the table.
BESIDE_LABELS = 72
SOME_FAILED = 1
FOUND_OOD = 10

VERDICTS = group("Verdicts")


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
        str | None,
        Parameter(help="Source of the server's bundle whose calibration judges, such as a camera.", group=VERDICTS),
    ] = None,
    confidence: Annotated[
        float | None,
        Parameter(help="How sure the target acceptance is to be kept; default: the server's.", group=VERDICTS),
    ] = None,
    coverage: Annotated[
        float | None,
        Parameter(help="Chance that a label set holds the true class; default: the server's.", group=VERDICTS),
    ] = None,
    max_error: Annotated[
        float | None,
        Parameter(help="Largest share of wrong labels among answers; default: the server's.", group=VERDICTS),
    ] = None,
    explain: Annotated[
        bool,
        Parameter(help="Say which family of scores decided, and name the nearest training photos.", negative=""),
    ] = False,
    json_lines: Annotated[bool, Parameter(name="--json", help="Print one JSON object per line.", negative="")] = False,
    csv_rows: Annotated[bool, Parameter(name="--csv", help="Print comma-separated values.", negative="")] = False,
    fail_on_ood: Annotated[bool, Parameter(help="Exit with code 10 if any image is OOD.", negative="")] = False,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> int:
    """Ask a server about image files and folders.

    --csv and --json print the columns that oodguard score writes; an image that could not be used is a row with its
    error. The last line counts the images: on standard output below a table, on standard error otherwise.

    Exit code: 0 all answered, 1 some images could not be used, 2 bad input, 3 no server answers, 10 an image is OOD
    (with --fail-on-ood).

    Example: oodguard predict photo.jpg some/folder --url http://localhost:8000
    """
    if json_lines and csv_rows:
        raise InputError("--json and --csv exclude each other; choose one")
    paths = _files(images)
    asked = Asked(accept=accept, confidence=confidence, coverage=coverage, max_error=max_error)
    results: list[tuple[Path, Prediction | Problem]] = []
    try:
        with (
            Client(url, key=key) as client,
            reporter(output, opening=False) as report,
            # So that no request is under way when the client closes.
            closing(client.stream(paths, source=source, explain=explain, **asked)) as answers,
        ):
            for path, result in zip(paths, answers, strict=True):
                report.progress("images", len(results) + 1, len(paths))
                found = result.prediction or result.problem
                if isinstance(found, Problem):
                    _stop_if_all_fail(found, url=url, key=key)
                if found is not None:
                    results.append((path, found))
    except ServerUnreachable as error:
        raise EnvironmentProblem(f"{error}; --url names the server, and oodguard serve starts one") from None
    judged = [(path, found) for path, found in results if isinstance(found, Prediction)]
    failures = [(path, found) for path, found in results if isinstance(found, Problem)]
    if json_lines or csv_rows:
        (_print_json if json_lines else _print_csv)(_rows(results, explained=explain))
    else:
        _print_table(results, explained=explain)
    for path, failure in failures:
        say_error(visible(failure.detail), title=visible(str(path)))
    if json_lines or csv_rows:
        if output is None or not output.quiet:
            say(counted(results))
    else:
        Terminal(soft_wrap=True).print(counted(results), highlight=False)
    if failures:
        return SOME_FAILED
    return FOUND_OOD if fail_on_ood and any(p.is_ood for _, p in judged) else 0


def _stop_if_all_fail(found: Problem, *, url: str, key: str | None) -> None:
    """Raise `InputError` for a problem that every further image would meet as well."""
    if found.code == Code.BAD_PARAMETER:
        raise InputError(found.detail)
    if found.code == Code.UNAUTHORIZED:
        raise InputError(
            f"{url} does not know this API key; give another one with --key or in OODGUARD_PREDICT_KEY"
            if key
            else f"{url} needs an API key; give it with --key or in OODGUARD_PREDICT_KEY"
        )


def counted(results: Sequence[tuple[Path, Prediction | Problem]]) -> str:
    """How many images are known and how many are strangers: 43 images: 40 known, 3 strangers."""
    judged = [found for _, found in results if isinstance(found, Prediction)]
    strangers = sum(found.is_ood for found in judged)
    unsure = sum(found.decision is Decision.UNSURE for found in judged)
    failed = len(results) - len(judged)
    parts = [
        f"{len(judged) - strangers:,} known" + (f" ({unsure:,} of them unsure of the label)" if unsure else ""),
        f"{strangers:,} stranger" + ("" if strangers == 1 else "s"),
        *([f"{failed:,} could not be used"] if failed else []),
    ]
    return f"{len(results):,} image{'' if len(results) == 1 else 's'}: {', '.join(parts)}"


Row = dict[str, Cell]


def _rows(results: Sequence[tuple[Path, Prediction | Problem]], *, explained: bool) -> list[Row]:
    """The rows that `oodguard score` would write of the same images."""
    scores = next((found.scores for _, found in results if isinstance(found, Prediction)), {})
    names = [column.name for column in columns(scores, explained=explained)]
    rows: list[Row] = []
    for path, found in results:
        cells = verdict_cells(found) if isinstance(found, Prediction) else error_cells(found.code, found.detail)
        given: Row = {"path": str(path), **cells}
        rows.append({name: given.get(name) for name in names})
    return rows


def _print_json(rows: Sequence[Row]) -> None:
    for row in rows:
        print(json_line(row))


def _print_csv(rows: Sequence[Row]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([_written(value) for value in row.values()])


def _written(value: Cell) -> str | float | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        value = joined(value)
    return cell(value) if isinstance(value, str) else value


def _print_table(results: Sequence[tuple[Path, Prediction | Problem]], *, explained: bool) -> None:
    table, width = Table(), Terminal().width
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
        most = max(width - BESIDE_LABELS, LABEL_WIDTH) if column == "label" and not explained else None
        table.add_column(column, justify="right" if right else "left", overflow="fold", max_width=most)
    for path, p in results:
        if isinstance(p, Problem):
            table.add_row(escape(visible(str(path))), "-", "-", "[red]failed[/]")
            continue
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
        # What is no image by its name is read all the same: the server looks at its bytes.
        expect(path, Artefact.IMAGES, more=frozenset({Artefact.PART, Artefact.LIST}))
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if _is_image(p))
            if not inside:
                raise InputError(f"{path} has no images ({', '.join(FORMAT_NAMES)})")
            found += inside
        else:
            found.append(path)
    if not found:
        raise InputError("give at least one image file or folder")
    return found


def _is_image(path: Path) -> bool:
    """Whether a file of a folder is sent: its content says that it is an image, or its name does."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return format_of(stream.read(HEAD)) is not None
    except OSError:
        return False

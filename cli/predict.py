"""`oodguard predict`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from oodguard.clients.http import Client
from oodguard.core.answers import Prediction
from oodguard.core.codes import Code
from oodguard.core.errors import InputError
from oodguard.core.formats import IMAGE_SUFFIXES

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
    rows: list[tuple[Path, Prediction]] = []
    failures: list[tuple[Path, str]] = []
    shown = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with Client(url, key=key) as client, shown:
        task = shown.add_task("images", total=len(paths))
        for path, result in zip(paths, client.stream(paths, accept=accept), strict=True):
            shown.advance(task)
            if result.prediction is not None:
                rows.append((path, result.prediction))
            elif result.problem is not None:
                if result.problem.code == Code.BAD_PARAMETER:
                    raise InputError(result.problem.detail)
                failures.append((path, result.problem.detail))
    if json_lines:
        for path, prediction in rows:
            print(json.dumps({"path": str(path), **prediction.model_dump(mode="json", exclude={"index", "file"})}))
    elif csv_rows:
        writer = csv.writer(sys.stdout)
        writer.writerow(["path", "label", "probability", "is_ood", "ood_score", "threshold"])
        for path, p in rows:
            writer.writerow([_shown(path), p.label, p.probability, p.is_ood, p.ood_score, p.threshold])
    elif rows:
        _table(rows)
    errors = Console(stderr=True, soft_wrap=True)
    for path, why in failures:
        errors.print(f"[red]{escape(_shown(path))}[/]: {escape(why)}", highlight=False)
    if failures:
        return SOME_FAILED
    return FOUND_OOD if fail_on_ood and any(p.is_ood for _, p in rows) else 0


def _table(rows: list[tuple[Path, Prediction]]) -> None:
    table = Table()
    for column, right in (
        ("image", 0),
        ("label", 0),
        ("probability", 1),
        ("verdict", 0),
        ("score", 1),
        ("threshold", 1),
    ):
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for path, p in rows:
        verdict = "[bold red]OOD[/]" if p.is_ood else "[green]ID[/]"
        table.add_row(
            escape(_shown(path)),
            escape(p.label),
            f"{p.probability:.3f}",
            verdict,
            f"{p.ood_score:.2f}",
            f"{p.threshold:.2f}",
        )
    Console().print(table)


def _shown(path: Path) -> str:
    # A name that is not valid text in this locale must not end the command half-way.
    return str(path).encode(errors="replace").decode()


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

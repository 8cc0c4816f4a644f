"""The list of suspects: a CSV file that `check` writes, that people edit, and that `train --exclude` reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.text import cell
from oodguard.training.photos.delimited import read_delimited
from oodguard.training.photos.kinds import LISTED, Kind
from oodguard.training.photos.labelled import Photo, Photos

COLUMNS = ("path", "class", "kind", "reason", "suggested_class", "score", "rank", "keep")


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One row: a file, relative to the data folder, and what is wrong with it.

    score: how certain that is, in the kind's own unit. rank: its place among its kind, from 1. keep: what somebody
    wrote beside a row that is in order; anything keeps the photo.
    """

    path: str
    label: str
    kind: Kind
    reason: str
    suggested: str = ""
    score: float = 1.0
    rank: int
    keep: str = ""


def to_csv(suspects: Iterable[Suspect]) -> str:
    """The list as CSV text, which spreadsheets open without running anything."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in suspects:
        words = (one.path, one.label, one.kind, one.reason, one.suggested)
        writer.writerow([*map(cell, words), f"{one.score:.4f}", one.rank, cell(one.keep)])
    return stream.getvalue()


@dataclass(frozen=True)
class ListedRow:
    """A row of a list as it stands in the file: a path as `cell` writes it, a kind, and what keeps the photo."""

    path: str
    kind: str
    keep: str


def read_rows(path: Path) -> tuple[ListedRow, ...]:
    """The rows of a list, as `check` or a spreadsheet saved it. Raises `InputError` for another file.

    Commas, semicolons and tabs may separate the columns; of these only `path` must be there.
    """
    table = read_delimited(path, advice="give the suspects.csv of oodguard check")
    if "path" not in {name.lower() for name in table.columns}:
        raise InputError(f"{path} has no column named path; give the suspects.csv of oodguard check")
    rows = []
    for row in table.rows:
        values = {name.lower(): value for name, value in row.cells.items()}
        if values.get("path"):
            rows.append(ListedRow(values["path"], values.get("kind", ""), values.get("keep", "")))
    return tuple(rows)


def exclude(photos: Photos, source: Path, kinds: Sequence[Kind]) -> Photos:
    """The photos without those that the list `source` names under one of `kinds`, or without a kind.

    A photo stays where somebody wrote something into the column `keep` of one of its rows. It counts under the first
    of its kinds. Raises `InputError` where no row names a photo, or where a class would be left without photos.
    """
    rows = read_rows(source)
    by_name = {cell(photos.name(photo)).strip(): photo for photo in (*photos.pool, *photos.test)}
    # Spreadsheets hide the quote that keeps a cell from being a formula, and may save it so.
    by_name |= {name.removeprefix("'"): photo for name, photo in by_name.items()}
    named = [row for row in rows if row.path in by_name]
    if rows and not named and any(row.kind != Kind.PASSED_OVER for row in rows):
        raise InputError(
            f"{source} names no photo of {photos.root} (the first: {rows[0].path}); "
            "give the paths relative to the data folder"
        )
    kept = {row.path for row in named if row.keep}
    dropped: dict[Photo, str] = {}
    for row in named:
        if row.path not in kept and (not row.kind or row.kind in kinds):
            dropped.setdefault(by_name[row.path], row.kind or LISTED)
    left = photos.without_photos(dropped)
    if gone := sorted(set(photos.classes) - set(left.classes)):
        raise InputError(f"{source} leaves no photo of {gone[0]}; take some of its rows out, or write into keep")
    return left


def label_line(photos: Photos, source: Path, kinds: Sequence[Kind]) -> str | None:
    """What a list says of wrong labels that nobody looked at, and what to do; None where it says nothing.

    photos: those that are left. kinds: which kinds were left out.
    """
    waiting = {row.path for row in read_rows(source) if row.kind == Kind.LABEL and not row.keep}
    total = len(photos.pool) + len(photos.test) + sum(photos.left_out.values())
    if not waiting or not total:
        return None
    share = f"{len(waiting):,} of {total:,} photos ({len(waiting) / total:.1%})"
    if Kind.LABEL in kinds:
        return (
            f"labels: {share} are left out because their label looks wrong; where labels are good these are the photos "
            "that are hard, so look at them in check.html and write into keep beside good ones"
        )
    return (
        f"labels: {share} have a label that looks wrong and stay in; look at them in check.html, write into keep "
        "beside good ones, and leave the others out with --exclude-kinds label,copies,unreadable"
    )


def with_kept(suspects: Sequence[Suspect], before: Sequence[ListedRow]) -> tuple[Suspect, ...]:
    """The list with what somebody wrote into the last one's column `keep`."""
    kept = {(row.path, row.kind): row.keep for row in before if row.keep}
    return tuple(
        Suspect(**{**vars(one), "keep": kept.get((cell(one.path).strip(), one.kind), one.keep)}) for one in suspects
    )

"""The list of suspects: a CSV file that `check` writes, that people edit, and that `train --exclude` reads."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.text import cell
from oodguard.training.photos.labelled import Photo, Photos

COLUMNS = ("path", "class", "kind", "reason", "suggested_class", "score", "rank", "keep")


class Kind(StrEnum):
    """What is wrong with a photo, in the order of the list."""

    LABEL = "label"
    COPY_ACROSS = "copy-across"
    COPY = "copy"
    NEAR_COPY = "near-copy"
    UNREADABLE = "unreadable"
    PASSED_OVER = "passed-over"
    BLANK = "blank"
    SIZE = "size"
    SHAPE = "shape"
    DARK = "dark"
    BRIGHT = "bright"
    BLURRED = "blurred"


# What `train --exclude` leaves out where nobody names kinds: not what production may send as well.
EXCLUDED = (Kind.LABEL, Kind.COPY_ACROSS, Kind.COPY, Kind.NEAR_COPY, Kind.UNREADABLE)


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


@dataclass(frozen=True)
class Exclusion:
    """The photos that are left, how many were left out by kind, and the rows whose files are not there."""

    photos: Photos
    left_out: dict[str, int]
    absent: tuple[str, ...]


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Kinds by name, separated by commas. Raises `ValueError` for another name."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in set(Kind):
            raise ValueError(f"{name!r} is no kind of suspect; the kinds are {', '.join(Kind)}")
    return tuple(Kind(name) for name in names)


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
class Row:
    """A row of a list as it stands in the file: a path as `cell` writes it, a kind, and what keeps the photo."""

    path: str
    kind: str
    keep: str


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a list, as `check` or a spreadsheet saved it. Raises `InputError` for another file.

    Commas, semicolons and tabs may separate the columns; of these only `path` must be there.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{path} cannot be read ({why}); give the suspects.csv of oodguard check") from None
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    try:
        table = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file ({error}); give the suspects.csv of oodguard check") from None
    columns = {name.strip().lower() for name in next(csv.reader([head], delimiter=separator), [])}
    if "path" not in columns:
        raise InputError(f"{path} has no column named path; give the suspects.csv of oodguard check")
    rows = []
    for line in table:
        values = {(name or "").strip().lower(): value or "" for name, value in line.items() if name is not None}
        if values.get("path", "").strip():
            rows.append(Row(values["path"].strip(), values.get("kind", "").strip(), values.get("keep", "").strip()))
    return tuple(rows)


def exclude(photos: Photos, rows: Sequence[Row], kinds: Sequence[Kind], *, source: Path) -> Exclusion:
    """The photos without those that rows of `kinds` name; rows without a kind count, rows that are kept do not.

    A photo counts under the first of its kinds. Raises `InputError` where no row names a photo.
    """
    by_name = {cell(photos.name(photo)).strip(): photo for photo in (*photos.pool, *photos.test)}
    # Spreadsheets show a cell without the quote that keeps it from being a formula, and may save it so.
    by_name |= {name.removeprefix("'"): photo for name, photo in by_name.items()}
    if rows and not any(row.path in by_name for row in rows):
        raise InputError(
            f"{source} names no photo of {photos.root} (the first: {rows[0].path}); "
            "its paths are relative to the data folder"
        )
    kept = {row.path for row in rows if row.keep}
    dropped: dict[Photo, str] = {}
    for row in rows:
        if row.path in by_name and row.path not in kept and (not row.kind or row.kind in kinds):
            dropped.setdefault(by_name[row.path], row.kind or "listed")
    return Exclusion(
        photos=photos.without_photos(frozenset(dropped)),
        left_out=dict(Counter(dropped.values())),
        absent=tuple(row.path for row in rows if row.path not in by_name and row.kind != Kind.PASSED_OVER),
    )


def with_kept(suspects: Sequence[Suspect], before: Sequence[Row]) -> tuple[Suspect, ...]:
    """The list with what somebody wrote into the last one's column `keep`."""
    kept = {(row.path, row.kind): row.keep for row in before if row.keep}
    return tuple(
        Suspect(**{**vars(one), "keep": kept.get((cell(one.path).strip(), one.kind), one.keep)}) for one in suspects
    )

"""CSV files as people and spreadsheets write them: with a header, and commas, semicolons or tabs between columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oodguard.core.errors import FormatError, InputError
from oodguard.core.files import read_text
from oodguard.core.text import visible

MAX_BYTES = 1 << 30
SEPARATORS = ",;\t"


@dataclass(frozen=True)
class DelimitedRow:
    """One row: the line on which it ends, its cells by column, and how many cells are beyond the header's."""

    line: int
    cells: Mapping[str, str]
    beyond: int


@dataclass(frozen=True)
class Delimited:
    """A table of texts: the columns as the file names them, and its rows without empty ones."""

    columns: tuple[str, ...]
    rows: tuple[DelimitedRow, ...]


def read_delimited(path: Path, *, advice: str) -> Delimited:
    """The table in a file. The separator is the one that the header has most of; cells are stripped.

    advice: what to do about a file that is none, for the `InputError` that it raises.
    """
    try:
        text = read_text(path, most=MAX_BYTES).removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError, FormatError) as error:
        why = getattr(error, "strerror", None)
        why = why or ("it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error))
        raise InputError(f"{visible(str(path))} cannot be read ({why}); {advice}") from None
    separator = max(SEPARATORS, key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows: list[DelimitedRow] = []
    columns: tuple[str, ...] = ()
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            if not columns:
                columns = tuple(stripped)
                continue
            found = dict(zip(columns, stripped, strict=False))
            rows.append(DelimitedRow(reader.line_num, found, max(len(cells) - len(columns), 0)))
    except csv.Error as error:
        raise InputError(f"{visible(str(path))} is no CSV file (line {reader.line_num}: {error}); {advice}") from None
    return Delimited(columns, tuple(rows))

"""What a person said of flagged pictures, as a plain CSV file that people and spreadsheets may edit."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.text import cell
from oodguard.review.class_names import require_class_name

MARKS_FILE = "marks.csv"
COLUMNS = ("path", "sha256", "mark", "class", "at", "group")
MAX_BYTES = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_QUOTED = re.compile("'[=+\\-@']")


class MarkKind(StrEnum):
    """What a picture is: of a class that the model knows, of none, of one that it should learn, or of no use."""

    KNOWN = "known"
    STRANGER = "stranger"
    NEW = "new class"
    BAD = "bad picture"

    @property
    def has_class(self) -> bool:
        """Whether a class belongs to the mark."""
        return self in (MarkKind.KNOWN, MarkKind.NEW)


@dataclass(frozen=True)
class Mark:
    """One decision: a kind, and the name of the class where the kind has one. `Mark.of` checks both."""

    kind: MarkKind
    label: str = ""

    @classmethod
    def of(cls, kind: str, label: str = "") -> Mark:
        """The mark that words stand for. Raises `InputError`."""
        words = " ".join(kind.lower().split())
        found = next((one for one in MarkKind if words in (one.value, one.value.split()[0])), None)
        if found is None:
            raise InputError(f"{kind[:40]!r} is no mark; marks are {', '.join(MarkKind)}")
        if found is MarkKind.NEW:
            return cls(found, require_class_name(label))
        if found is MarkKind.KNOWN and not label.strip():
            raise InputError("a picture that is known needs a class; name it")
        return cls(found, label.strip() if found.has_class else "")


@dataclass(frozen=True)
class MarkRow:
    """One row of the file.

    path: of the picture in its folder, with slashes and as `cell` shows it. sha256: of the bytes that were marked, or
    empty. at: when, as it stands there. group: the picture that stands for those marked with it, or empty.
    """

    path: str
    sha256: str
    mark: Mark
    at: str = ""
    group: str = ""


def read_marks(path: Path) -> dict[str, MarkRow]:
    """The rows of a file by their path, as the tool or a spreadsheet saved it; of two for one path the last one.

    Commas, semicolons and tabs may separate the columns, and of these only `path` and `mark` must be there, and `class`
    where a mark has one. Raises `InputError`, with the number of the line, for anything else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES:,} bytes; give the {MARKS_FILE} of oodguard review")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; save it as CSV UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); name a {MARKS_FILE}") from None
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if "path" not in names or "mark" not in names:
            raise InputError(f"{path} has no columns path and mark; give the {MARKS_FILE} of oodguard review")
        found = {}
        for values in reader:
            row = _row(dict(zip(names, values, strict=False)), f"{path}, line {reader.line_num}")
            if row is not None:
                found[row.path] = row
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file ({error}); give the {MARKS_FILE} of oodguard review") from None
    return found


def to_csv(rows: Iterable[MarkRow]) -> str:
    """The file's text. Cells that a spreadsheet would run have a quote in front."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = (row.path, row.sha256, row.mark.kind.value, row.mark.label, row.at, row.group)
        writer.writerow(map(cell, values))
    return stream.getvalue()


def _row(values: dict[str, str], where: str) -> MarkRow | None:
    """A row; None for one without a mark."""
    path, kind, label = (_plain(values.get(name, "")) for name in ("path", "mark", "class"))
    if not path or not kind:
        return None
    sha256 = values.get("sha256", "").strip().lower()
    if sha256 and not _SHA256.fullmatch(sha256):
        raise InputError(f"{where}: {sha256[:20]!r} is no SHA-256; leave the cell empty or put the old one back")
    try:
        mark = Mark.of(kind, label)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return MarkRow(path, sha256, mark, _plain(values.get("at", "")), _plain(values.get("group", "")))


def _plain(text: str) -> str:
    """A cell without the quote that keeps it from being a formula."""
    text = text.strip()
    return text[1:] if _QUOTED.match(text) else text

"""Marks become folders: pictures are copied to the photos of their class, and strangers to a folder of outliers."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from oodguard.clients.samples import read_samples
from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.files import file_sha256
from oodguard.core.photo_folders import training_folder, unwrapped
from oodguard.core.text import cell, visible
from oodguard.review.class_names import require_class_name
from oodguard.review.marks import MarkKind, MarkRow, read_marks

COLUMNS = ("at", "sha256", "mark", "class", "from", "to")


@dataclass(frozen=True)
class Left:
    """A picture that was not copied, and why."""

    path: str
    why: str


@dataclass(frozen=True)
class Applied:
    """What became of marks.

    marks: pictures of each kind. copied: how many were copied now, or would be. there: how many were there. classes:
    pictures by class. new: the classes that are new. photos: the folder of the class folders. strangers: the folder of
    outliers. record: the file that says where each copy came from. known: the flagged files that are known.
    """

    marks: Mapping[MarkKind, int]
    copied: int
    there: int
    classes: Mapping[str, int]
    new: frozenset[str]
    photos: Path
    strangers: Path
    record: Path
    known: tuple[Path, ...]
    left: tuple[Left, ...]


@dataclass(frozen=True)
class _Copy:
    row: MarkRow
    source: Path
    sha256: str
    target: Path


def apply_marks(
    folder: Path, marks: Path, into: Path, *, strangers: Path | None = None, dry_run: bool = False
) -> Applied:
    """Copy the marked pictures of `folder` to the class folders of `into`; strangers to `strangers`.

    ```python
    apply_marks(Path("flagged"), Path("flagged/marks.csv"), Path("photos"))
    ```

    Where `into` has splits, the classes of `train` are meant. Strangers go to a folder beside it, by default. A copy is
    named by its SHA-256; nothing is moved or overwritten, and what was copied before is not copied again. A record
    beside `into` gets a row for each copy. FlaggedPictures that are bad go nowhere.

    A picture that cannot be copied is in `left`, and all others are copied. Raises `InputError` for a folder, a file of
    marks or a target that cannot be used, `EnvironmentProblem` where files cannot be written.
    """
    into = into if into.name else into.absolute()
    if into.exists() and not into.is_dir():
        raise InputError(f"{into} is no folder; name the folder of photos that train takes, an archive unpacked")
    strangers = strangers or into.with_name(f"{into.name}-strangers")
    if strangers.absolute().is_relative_to(into.absolute()):
        raise InputError(f"{strangers} lies in {into}, where it would be a class; name a folder outside it")
    plan = _Plan(folder, into, strangers)
    plan.consider(read_marks(marks))
    try:
        copied = sum(plan.copy(one, dry_run=dry_run) for one in plan.copies)
        if not dry_run:
            plan.write_record()
    except OSError as error:
        raise EnvironmentProblem(
            f"{error.filename or into} cannot be written ({error.strerror or error}); make room, and run this again"
        ) from None
    used = [one for one in plan.copies if one not in plan.failed]
    classes = Counter(one.row.mark.label for one in used if one.row.mark.kind.has_class)
    return Applied(
        marks=plan.marks,
        copied=copied,
        there=len(used) - copied,
        classes=dict(sorted(classes.items())),
        new=frozenset(one.row.mark.label for one in used if one.row.mark.kind is MarkKind.NEW),
        photos=plan.photos,
        strangers=strangers,
        record=plan.record,
        known=tuple(one.source.absolute() for one in used if one.row.mark.kind is MarkKind.KNOWN),
        left=tuple(plan.left),
    )


class _Plan:
    """What to copy where, and what is left."""

    def __init__(self, folder: Path, into: Path, strangers: Path) -> None:
        self._pictures = {
            cell(visible(one.image.relative_to(folder).as_posix())): one.image for one in read_samples(folder).good
        }
        self.photos = training_folder(unwrapped(into)) if into.is_dir() else into
        self.strangers = strangers
        self.record = into.with_name(f"{into.name}-from-review.csv")
        self._classes = frozenset(_folders(self.photos))
        self._before = _read_record(self.record)
        self._new_rows: list[tuple[str, ...]] = []
        self.marks: Counter[MarkKind] = Counter()
        self.copies: list[_Copy] = []
        self.failed: list[_Copy] = []
        self.left: list[Left] = []

    def consider(self, rows: Mapping[str, MarkRow]) -> None:
        """Find the picture and the target of each row."""
        by_sha256: dict[str, MarkRow] = {}
        for row in rows.values():
            self.marks[row.mark.kind] += 1
            source = self._pictures.get(cell(row.path))
            try:
                if source is None:
                    raise InputError("there is no such picture with a sidecar in the folder")
                sha256 = file_sha256(source)
                if row.sha256 and row.sha256 != sha256:
                    raise InputError("the file was changed since it was marked; mark it again")
                twin = by_sha256.setdefault(sha256, row)
                if twin.mark != row.mark:
                    raise InputError(f"the same picture, {twin.path}, has another mark; give both one mark")
                self._require_no_other_copy(sha256, row)
                if twin is row and row.mark.kind is not MarkKind.BAD:
                    target = self._folder(row) / f"flagged-{sha256[:20]}{source.suffix.lower()}"
                    self.copies.append(_Copy(row, source, sha256, target))
            except InputError as error:
                self.left.append(Left(row.path, str(error)))
            except OSError as error:
                self.left.append(Left(row.path, f"it cannot be read ({error.strerror or error})"))

    def _folder(self, row: MarkRow) -> Path:
        """Where a picture goes. Raises `InputError`."""
        label = row.mark.label
        if row.mark.kind is MarkKind.STRANGER:
            return self.strangers
        if label not in self._classes and not self._is_nested(label):
            label = require_class_name(label)
            other = next((name for name in self._classes if name.casefold() == label.casefold()), None)
            if other is not None and other != label:
                raise InputError(f"{self.photos} has a class {other}; write {label} like that")
            if row.mark.kind is MarkKind.KNOWN and self._classes and other is None:
                raise InputError(
                    f"{self.photos} has no class {label}; name its photos with --into, or mark a new class"
                )
        return self.photos / label

    def _is_nested(self, label: str) -> bool:
        """Whether a class is a folder in a folder, as train --classes-from path names it."""
        parts = label.split("/")
        safe = len(parts) > 1 and not any(part.startswith(".") or not part for part in parts)
        return safe and (self.photos / label).is_dir()

    def _require_no_other_copy(self, sha256: str, row: MarkRow) -> None:
        wanted = None if row.mark.kind is MarkKind.BAD else self._folder(row).absolute()
        for old in self._before.get(sha256, ()):
            if old.is_file() and old.parent != wanted:
                raise InputError(f"an earlier mark copied it to {old}; remove that file, and run this again")

    def copy(self, one: _Copy, *, dry_run: bool) -> bool:
        """Copy one picture, unless it is there; whether it was copied."""
        there = one.target.exists()
        if there and file_sha256(one.target) != one.sha256:
            self.failed.append(one)
            self.left.append(Left(one.row.path, f"{one.target} is there, and another picture; rename that file"))
            return False
        if not there and not dry_run:
            one.target.parent.mkdir(parents=True, exist_ok=True)
            partial = one.target.with_name(f".{one.target.name}.partial")
            with one.source.open("rb") as source, partial.open("wb") as stream:
                shutil.copyfileobj(source, stream)
                stream.flush()
                os.fsync(stream.fileno())
            partial.rename(one.target)
        if one.target.absolute() not in self._before.get(one.sha256, ()):
            at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            mark = one.row.mark
            self._new_rows.append(
                (at, one.sha256, mark.kind.value, mark.label, str(one.source.absolute()), str(one.target.absolute()))
            )
        return not there

    def write_record(self) -> None:
        """Append where the new copies came from."""
        if not self._new_rows:
            return
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        if not self.record.exists():
            writer.writerow(COLUMNS)
        for row in self._new_rows:
            writer.writerow(map(cell, row))
        with self.record.open("a", encoding="utf-8", newline="") as record:
            record.write(stream.getvalue())
            record.flush()
            os.fsync(record.fileno())


def _folders(folder: Path) -> Iterable[str]:
    if not folder.is_dir():
        return ()
    return [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _read_record(path: Path) -> dict[str, tuple[Path, ...]]:
    """Where pictures were copied before, by their SHA-256. Raises `InputError` for a file that is no such record."""
    if not path.exists():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
        found: dict[str, tuple[Path, ...]] = {}
        for row in rows:
            found[row["sha256"]] = (*found.get(row["sha256"], ()), Path(row["to"].removeprefix("'")))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is no record of copied pictures; rename it, and run this again") from None
    return found

"""The marks of one session: written to the file after each decision, with steps to take back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.review.marks import Mark, MarkRow, read_marks, to_csv

try:
    import fcntl
except ImportError:  # Windows: there one has to see to it that only one session marks a folder.
    fcntl = None  # type: ignore[assignment]

MAX_STEPS = 1000


@dataclass(frozen=True)
class _Step:
    """What a decision changed: what each path had before, and has since."""

    before: Mapping[str, MarkRow | None]
    after: Mapping[str, MarkRow | None]


class MarkBook:
    """The file of marks, held by one session at a time.

    ```python
    with MarkBook(Path("flagged/marks.csv")) as book:
        book.decide({"a.jpg": sha256}, Mark.of("known", "plum"))
        book.undo()
    ```

    Each decision is in the file, on the disk, before it returns: the new file is written beside the old one and takes
    its name. What others change in the file meanwhile, such as a spreadsheet, is read before the next decision and
    stays, unless this session has changed the same row since; so no mark is lost.

    Raises `EnvironmentProblem` where another session holds the file or it cannot be written, and `InputError` for a
    file that `read_marks` refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, MarkRow] = {}
        self._steps: list[_Step] = []
        # What this session changed: the marks that each row had before its changes.
        self._own: dict[str, list[Mark | None]] = {}
        self._seen: tuple[int, int, int] | None = None
        self._lock = -1

    def __enter__(self) -> MarkBook:
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._refresh()
        except BlockingIOError:
            self._release()
            raise EnvironmentProblem(
                f"{self.path} is open in another oodguard review; end that one first, or name another file with --out"
            ) from None
        except OSError as error:
            self._release()
            raise EnvironmentProblem(
                f"{self.path} cannot be written ({error.strerror or error}); name another file with --out"
            ) from None
        except InputError:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def rows(self) -> Mapping[str, MarkRow]:
        """Every row, by the path of its picture."""
        return self._rows

    @property
    def steps(self) -> int:
        """How many decisions can be taken back."""
        return len(self._steps)

    def decide(self, pictures: Mapping[str, str], mark: Mark | None, *, group: str = "") -> None:
        """Give pictures, by path and SHA-256, one mark; None: take the one that they have."""
        self._refresh()
        at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        after = {
            path: None if mark is None else MarkRow(path, sha256, mark, at, group) for path, sha256 in pictures.items()
        }
        step = _Step({path: self._rows.get(path) for path in after}, after)
        self._write(step.after)
        self._steps = [*self._steps, step][-MAX_STEPS:]

    def undo(self) -> tuple[str, ...]:
        """Take the last decision back; the paths whose mark has changed.

        Raises `InputError` where there is none. A row that others have changed since keeps what they wrote.
        """
        if not self._steps:
            raise InputError("there is nothing to take back in this session")
        self._refresh()
        step = self._steps[-1]
        changed = {
            path: row for path, row in step.before.items() if _mark(self._rows.get(path)) == _mark(step.after[path])
        }
        self._write(changed)
        self._steps.pop()
        return tuple(changed)

    def _refresh(self) -> None:
        """Read what others wrote since."""
        seen = _signature(self.path)
        if seen == self._seen:
            return
        found = read_marks(self.path) if seen is not None else {}
        for path, before in self._own.items():
            # They have not touched this row: they saved what they had read before this session changed it.
            if _mark(found.get(path)) in before:
                _put(found, path, self._rows.get(path))
        self._rows, self._seen = found, seen

    def _write(self, changes: Mapping[str, MarkRow | None]) -> None:
        rows = dict(self._rows)
        for path, row in changes.items():
            _put(rows, path, row)
        try:
            _replace(self.path, to_csv(rows.values()))
        except OSError as error:
            raise EnvironmentProblem(
                f"{self.path} cannot be written ({error.strerror or error}); make room there, and mark again"
            ) from None
        for path in changes:
            self._own.setdefault(path, []).append(_mark(self._rows.get(path)))
        self._rows, self._seen = rows, _signature(self.path)


def _mark(row: MarkRow | None) -> Mark | None:
    """What counts of a row: spreadsheets write times in their own way."""
    return None if row is None else row.mark


def _put(rows: dict[str, MarkRow], path: str, row: MarkRow | None) -> None:
    if row is None:
        rows.pop(path, None)
    else:
        rows[path] = row


def _signature(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _replace(path: Path, text: str) -> None:
    """Write a file so that, whenever the machine stops, the old or the new one is there, whole."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    with contextlib.suppress(OSError):
        # As the person set them: a folder that several share keeps its rights.
        partial.chmod(path.stat().st_mode & 0o777)
    partial.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Groups of pictures that look alike, found in the background while a person already works."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from oodguard.core.errors import ImageError, OodguardError
from oodguard.core.explanation import Neighbour
from oodguard.review.grouping import groups_of
from oodguard.review.measures import Level, Measure, Measurement
from oodguard.review.pictures import FlaggedPictures

BATCH = 16
# Groups are made anew after so many more pictures were measured.
FIRST_LOOK = 256
_NEIGHBOURS = TypeAdapter(tuple[tuple[Neighbour, ...], ...])


@dataclass(frozen=True)
class Grouped:
    """The groups so far. version: grows with each change. measured: how many pictures of all were looked at.

    groups: numbers of pictures, the most typical one of each group first; a picture that was not measured is alone.
    """

    version: int
    level: Level
    measured: int
    total: int
    finished: bool
    rule: str
    groups: tuple[tuple[int, ...], ...]
    problem: str = ""


class LookAlikes:
    """Measures the pictures of a folder in a thread of its own, and groups those that were measured.

    ```python
    alike = LookAlikes(pictures, ByLook(), cache=Path(".oodguard-cache"))
    alike.start()
    alike.found.groups
    ```

    cache: a folder that keeps the vectors, by SHA-256 of the picture; None: nothing is kept.
    """

    def __init__(self, pictures: FlaggedPictures, measure: Measure, *, cache: Path | None) -> None:
        self._pictures = pictures
        self._measure = measure
        where = hashlib.sha256(f"{measure.key}\n{pictures.folder.absolute()}".encode(errors="surrogateescape"))
        self._cache = None if cache is None else cache / "review" / f"{where.hexdigest()[:32]}.npz"
        self._known: dict[int, Measurement] = {}
        self._sha256: dict[int, str] = {}
        self._failed: dict[int, str] = {}
        self._gate = threading.Lock()
        self._stopped = threading.Event()
        alone = tuple((picture.number,) for picture in pictures.items)
        self._found = Grouped(0, Level.USUAL, 0, len(pictures), False, measure.rule, alone)
        self._thread = threading.Thread(target=self._run, name="look-alikes", daemon=True)

    @property
    def found(self) -> Grouped:
        """The groups as they are now."""
        return self._found

    def neighbours(self, number: int) -> tuple[Neighbour, ...]:
        """The training photos nearest to a picture, as far as the measure knows them."""
        known = self._known.get(number)
        return () if known is None else known.neighbours

    def problem(self, number: int) -> str:
        """Why a picture could not be measured; empty for all others."""
        return self._failed.get(number, "")

    def start(self) -> None:
        """Begin to measure."""
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all pictures are measured."""
        self._thread.join(timeout)

    def close(self) -> None:
        """Stop, and keep what was measured."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def regroup(self, level: Level) -> Grouped:
        """Group at another level."""
        self._publish(level=level)
        return self._found

    def _run(self) -> None:
        try:
            self._measure_all()
        except (OodguardError, OSError, RuntimeError) as error:
            self._publish(problem=f"look-alikes are not grouped: {error}")
        else:
            self._publish()
        with contextlib.suppress(OSError):
            self._save()

    def _measure_all(self) -> None:
        kept = self._load()
        look = FIRST_LOOK
        numbers = [picture.number for picture in self._pictures.items]
        for start in range(0, len(numbers), BATCH):
            if self._stopped.is_set():
                return
            self._measure_some(numbers[start : start + BATCH], kept)
            if start + BATCH >= look:
                look *= 2
                self._publish()
            else:
                self._publish(again=False)

    def _measure_some(self, numbers: list[int], kept: dict[str, Measurement]) -> None:
        waiting: list[tuple[int, bytes]] = []
        for number in numbers:
            try:
                data = self._pictures.items[number].path.read_bytes()
            except OSError as error:
                self._failed[number] = error.strerror or str(error)
                continue
            sha256 = hashlib.sha256(data).hexdigest()
            self._sha256[number] = sha256
            if sha256 in kept:
                self._known[number] = kept[sha256]
            else:
                waiting.append((number, data))
        if not waiting:
            return
        made = self._measure.measure([data for _, data in waiting])
        for (number, _), one in zip(waiting, made, strict=True):
            if isinstance(one, ImageError):
                self._failed[number] = str(one)
            else:
                self._known[number] = one

    def _publish(self, *, level: Level | None = None, problem: str = "", again: bool = True) -> None:
        """Let others see what there is; `again`: make the groups anew."""
        with self._gate:
            before = self._found
            level = level or before.level
            measured = len(self._known) + len(self._failed)
            groups = self._groups(level) if again else before.groups
            changed = groups != before.groups or level != before.level
            self._found = Grouped(
                version=before.version + changed,
                level=level,
                measured=measured,
                total=before.total,
                finished=measured == before.total or bool(problem or before.problem) or self._stopped.is_set(),
                rule=before.rule,
                groups=groups,
                problem=problem or before.problem,
            )

    def _groups(self, level: Level) -> tuple[tuple[int, ...], ...]:
        known = self._known.copy()
        numbers = sorted(known)
        alone = [(picture.number,) for picture in self._pictures.items if picture.number not in known]
        if level is Level.OFF or not numbers:
            return tuple((picture.number,) for picture in self._pictures.items)
        vectors = np.stack([known[number].vector for number in numbers])
        rows = groups_of(vectors, limit=self._measure.limits[level])
        return (*(tuple(numbers[row] for row in group) for group in rows), *alone)

    def _load(self) -> dict[str, Measurement]:
        """What an earlier session measured; a file that does not fit is of no use and is made anew."""
        if self._cache is None:
            return {}
        try:
            with np.load(io.BytesIO(self._cache.read_bytes()), allow_pickle=False) as kept:
                names, vectors = kept["sha256"].tolist(), kept["vectors"].astype(np.float32)
                near = _NEIGHBOURS.validate_json(kept["neighbours"].tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, ValidationError):
            return {}
        if vectors.ndim != 2 or not len(names) == len(vectors) == len(near):
            return {}
        return {
            name: Measurement(vector, neighbours) for name, vector, neighbours in zip(names, vectors, near, strict=True)
        }

    def _save(self) -> None:
        if self._cache is None or not self._known:
            return
        rows = {self._sha256[number]: one for number, one in self._known.copy().items()}
        stream = io.BytesIO()
        np.savez(
            stream,
            sha256=np.array(list(rows)),
            vectors=np.stack([one.vector for one in rows.values()]).astype(np.float16),
            neighbours=np.frombuffer(
                _NEIGHBOURS.dump_json(tuple(one.neighbours for one in rows.values())), dtype=np.uint8
            ),
        )
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        partial = self._cache.with_name(f"{self._cache.name}.partial")
        partial.write_bytes(stream.getvalue())
        partial.replace(self._cache)

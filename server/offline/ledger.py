"""The folder beside an unfinished result: the list of images, the finished parts, and what the run is for.

```
results.parquet.parts/
  state.json          what the run is for; written last, so that its presence means that the list is complete
  items.jsonl         one image per line, in the order of the result
  part-00000000.parquet ...
```

A part is finished when its file has its name.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet
from pydantic import ValidationError

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.formats import DEFAULT_OPTION
from oodguard.core.frozen import Frozen
from oodguard.core.preprocessing import DEFAULT_LIMITS
from oodguard.core.targets import Targets
from oodguard.server.offline.items import Item
from oodguard.server.offline.results import put, settle
from oodguard.server.offline.sources import Source

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

STATE_FILE = "state.json"
ITEMS_FILE = "items.jsonl"
LOCK_FILE = "lock"
LISTED_STEP = 1000
ANEW = "add --restart to begin again"


class Purpose(Frozen):
    """Everything that decides what the rows are; a run continues only with the purpose that it began with."""

    bundle: str
    bundle_sha256: str
    source: str
    targets: Targets
    calibration: str | None = None
    engine: str
    device: str
    threads: int
    batch: int
    part_size: int
    max_image_bytes: int
    max_pixels: int
    max_decode_work: int = DEFAULT_LIMITS.max_work
    explain: bool = False
    column: str | None = None
    formats: str = DEFAULT_OPTION

    @property
    def facts(self) -> dict[str, Any]:
        """Everything by name, each target by its own."""
        found = self.model_dump()
        return {**found.pop("targets"), **found}


class InputFile(Frozen):
    """A list or archive that the items came from; tells whether it was replaced."""

    path: str
    bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: str, base: Path) -> InputFile:
        """Describe the file as it is now."""
        status = (base / path).stat()
        return cls(path=path, bytes=status.st_size, modified_ns=status.st_mtime_ns)


class State(Frozen):
    """The content of `state.json`."""

    schema_version: Literal[4] = 4
    purpose: Purpose
    base: str
    images: int
    passed: Mapping[str, int]
    inputs: tuple[InputFile, ...]


class Ledger:
    """The folder of one run; one process at a time holds it.

    ```python
    with Ledger(out, purpose, restart=False) as ledger:
        ledger.prepare(lambda: Source("photos", base=Path.cwd(), max_bytes=20_000_000), base=Path.cwd())
        for part, items in ledger.items(wanted={0, 1}): ...
    ```
    """

    def __init__(self, out: Path, purpose: Purpose, *, restart: bool) -> None:
        self.folder = out.with_name(out.name + ".parts")
        self._purpose = purpose
        self._restart = restart
        self._descriptor = -1
        self.state: State

    def __enter__(self) -> Ledger:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
        try:
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise EnvironmentProblem(f"another oodguard score is writing to {self.folder}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        # A run that never began leaves nothing; one that did can go on.
        if kind is not None and not (self.folder / STATE_FILE).is_file():
            self.remove()

    def prepare(self, source: Callable[[], Source], base: Path, *, listed: Callable[[int], None]) -> None:
        """Take over an interrupted run, or list the source; `listed` gets the number of images found so far.

        Raises `InputError` when the run was for another purpose, and for a source without images.
        """
        if self._restart:
            self._clear()
        state = self._read_state()
        if state is None:
            self._clear()
            state = self._list(source(), base, listed)
        else:
            self._require_same(state)
        self.state = state

    def _clear(self) -> None:
        # By name, so that somebody else's folder of the same name loses nothing.
        for pattern in ("part-????????.p*", f"{ITEMS_FILE}*", f"{STATE_FILE}*", "ray.log"):
            for path in self.folder.glob(pattern):
                path.unlink()

    def _read_state(self) -> State | None:
        path = self.folder / STATE_FILE
        if not path.is_file():
            return None
        try:
            return State.model_validate_json(path.read_bytes())
        except ValidationError:
            raise InputError(f"{path} was not written by this version of oodguard; {ANEW}") from None

    def _require_same(self, state: State) -> None:
        before = state.purpose.facts
        for name, now in self._purpose.facts.items():
            was = before[name]
            if was != now:
                raise InputError(
                    f"{self.folder} holds a run with another {name.replace('_', ' ')} ({was}; now {now}); "
                    f"give the same again, or {ANEW}"
                )
        for known in state.inputs:
            try:
                same = InputFile.of(known.path, Path(state.base)) == known
            except OSError:
                same = False
            if not same:
                raise InputError(f"{known.path} has changed since the interrupted run listed it; {ANEW}")

    def _list(self, source: Source, base: Path, listed: Callable[[int], None]) -> State:
        images = usable = 0
        why = ""
        with (self.folder / ITEMS_FILE).open("wb") as stream:
            for item in source:
                stream.write(item.line())
                images += 1
                usable += item.code is None
                why = why or item.message or ""
                if images % LISTED_STEP == 0:
                    listed(images)
            stream.flush()
            os.fsync(stream.fileno())
        listed(images)
        if not usable:
            why = why or source.passed.sentence
            raise InputError(f"there is no image to score in {self._purpose.source}" + (f": {why}" if why else ""))
        state = State(
            purpose=self._purpose,
            base=str(base),
            images=images,
            passed=dict(source.passed.counts),
            inputs=tuple(InputFile.of(path, base) for path in source.inputs),
        )
        put(self.folder / STATE_FILE, state.model_dump_json(indent=1).encode())
        return state

    # Parts

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-self.state.images // self._purpose.part_size)

    def size(self, part: int) -> int:
        """The number of images in a part."""
        return min(self._purpose.part_size, self.state.images - part * self._purpose.part_size)

    def finished(self) -> set[int]:
        """The parts that are complete on disk."""
        return {part for part in range(self.parts) if self._is_whole(part)}

    def items(self, wanted: Container[int]) -> Iterator[tuple[int, list[Item]]]:
        """Yield the wanted parts with their items, in order; holds one part in memory."""
        with (self.folder / ITEMS_FILE).open("rb") as stream:
            for part in range(self.parts):
                lines = list(itertools.islice(stream, self.size(part)))
                if len(lines) != self.size(part):
                    raise InputError(f"{self.folder / ITEMS_FILE} is damaged; {ANEW}")
                if part in wanted:
                    yield part, [Item.of(line) for line in lines]

    def keep(self, part: int, rows: pa.Table) -> None:
        """Store a part's rows."""
        path = self._path(part)
        scratch = path.with_suffix(".partial")
        pa.parquet.write_table(rows, scratch, compression="zstd")
        settle(scratch, path)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows of every part, in order."""
        for part in range(self.parts):
            with pa.parquet.ParquetFile(self._path(part)) as stored:
                yield stored.read()

    def remove(self) -> None:
        """Delete the folder, after the result is written."""
        self._clear()
        with contextlib.suppress(OSError):
            (self.folder / LOCK_FILE).unlink()
            self.folder.rmdir()

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:08d}.parquet"

    def _is_whole(self, part: int) -> bool:
        try:
            return bool(pa.parquet.read_metadata(self._path(part)).num_rows == self.size(part))
        except (OSError, pa.ArrowException):
            return False

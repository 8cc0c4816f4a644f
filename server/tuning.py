"""How an engine is run on this machine: the plan, the record that `oodguard tune` writes, and which of them applies."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, ValidationError

from oodguard.core.allowance import cores
from oodguard.core.errors import FormatError
from oodguard.core.files import read_text
from oodguard.core.frozen import Frozen
from oodguard.core.manifest import Manifest
from oodguard.server.engines.registry import DEFAULT, LocalEngineName

TUNING_FILE = "tuning.json"
DEFAULT_BATCH = 8
# What settings and records may ask for.
MAX_SESSIONS, MAX_THREADS, MAX_BATCH = 64, 256, 1024
MAX_RECORD_BYTES = 2**20


class EnginePlan(Frozen):
    """How an engine is run: which one, how many inferences at once, threads of each, and images in each at most."""

    engine: LocalEngineName = DEFAULT
    sessions: int = Field(ge=1, le=MAX_SESSIONS)
    threads: int = Field(ge=1, le=MAX_THREADS)
    max_batch: int = Field(ge=1, le=MAX_BATCH)


class TuningTrial(EnginePlan):
    """A plan and its measurements: images per second with all slots busy, and milliseconds for one image alone."""

    images_per_second: float
    single_ms: float


class TuningRecord(Frozen):
    """What `oodguard tune` found; valid for one graph on one kind of machine."""

    schema_version: Literal[1] = 1
    graph_sha256: str
    machine: str
    best: EnginePlan
    trials: tuple[TuningTrial, ...]


class PlanSettings(Protocol):
    """What a command may say about how an engine is run; None leaves the choice to the record."""

    @property
    def bundle(self) -> Path | None: ...  # noqa: D102
    @property
    def engine(self) -> str | None: ...  # noqa: D102
    @property
    def tuning(self) -> Path | None: ...  # noqa: D102
    @property
    def sessions(self) -> int | None: ...  # noqa: D102
    @property
    def threads(self) -> int | None: ...  # noqa: D102
    @property
    def max_batch(self) -> int | None: ...  # noqa: D102


def machine() -> str:
    """What a record is valid for: the processor, and the cores that this process may use."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {cores()} cores"


def read_record(path: Path) -> TuningRecord:
    """Read a record. Raises `FormatError`."""
    try:
        return TuningRecord.model_validate_json(read_text(path, most=MAX_RECORD_BYTES))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise FormatError(f"{path} is not a tuning record ({str(error).splitlines()[0]})") from None


def plan_for(settings: PlanSettings, manifest: Manifest) -> EnginePlan:
    """The plan to serve with: what the settings say, else the record's where it fits, else the defaults.

    A record named in the settings must fit (`FormatError`); the one in the bundle is ignored where it does not, as
    a bundle travels and its record does not.
    """
    best = EnginePlan(engine=settings.engine or DEFAULT, sessions=cores(), threads=1, max_batch=DEFAULT_BATCH)
    named = settings.tuning
    path = named or (settings.bundle / TUNING_FILE if settings.bundle else None)
    if path is not None and path.is_file():
        record = read_record(path)
        fits = record.graph_sha256 == manifest.graph_sha256 and record.machine == machine()
        if named and not fits:
            raise FormatError(f"{named} was made for another graph or machine; run oodguard tune again")
        if fits and record.best.sessions * record.best.threads > cores():
            raise FormatError(f"{path} asks for more threads than this machine has cores; run oodguard tune again")
        if fits and settings.engine in (None, record.best.engine):
            best = record.best
    given = {name: getattr(settings, name) for name in ("sessions", "threads", "max_batch")}
    return best.model_copy(update={name: value for name, value in given.items() if value is not None})

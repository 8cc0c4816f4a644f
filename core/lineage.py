"""Which version of which run or bundle this is, and how versions count up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from oodguard.core.errors import InputError
from oodguard.core.frozen import Frozen

WHOLE = re.compile(r"[0-9]{1,15}")


class VersionRef(Frozen):
    """A run or a bundle that another one was made of, or that it follows."""

    name: str
    version: str
    created: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of its record: run.json or manifest.json")


class Named(BaseModel):
    """What a manifest of any schema says of its name and version."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    version: str


def next_version(versions: Iterable[str]) -> str:
    """The whole number after the highest of `versions`, or 1 where there is none.

    Raises `InputError` where there are versions and none is a whole number.
    """
    known = list(versions)
    numbers = [int(version) for version in known if WHOLE.fullmatch(version)]
    if known and not numbers:
        raise InputError(f"version {known[0]} is no whole number, so nothing follows it; give --model-version")
    return str(max(numbers, default=0) + 1)


def versions_beside(out: Path, name: str, *, record: str) -> Iterator[str]:
    """The versions of bundles called `name` at `out` and in the folders beside it; `record` is a manifest's file."""
    try:
        folders = sorted({out, *(path for path in out.parent.iterdir() if path.is_dir())})
    except OSError:
        return
    for folder in folders:
        # What is being written or replaced is no version.
        if folder.name.endswith((".partial", ".old")):
            continue
        try:
            found = Named.model_validate_json((folder / record).read_bytes())
        except (OSError, ValidationError):
            continue
        if found.name == name:
            yield found.version

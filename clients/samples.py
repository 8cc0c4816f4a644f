"""A folder of sampled flagged images and their sidecars, read without trusting any of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from oodguard.core.answers import FlaggedSample
from oodguard.core.errors import InputError
from oodguard.core.formats import IMAGE_SUFFIXES

MAX_SIDECAR_BYTES = 1 << 20


@dataclass(frozen=True)
class Sampled:
    """One image file and what its sidecar says of it."""

    image: Path
    sample: FlaggedSample


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be used, and why."""

    file: str
    why: str


@dataclass(frozen=True)
class Samples:
    """What a folder holds: pairs, highest OOD score first, and the files that are part of none."""

    folder: Path
    good: tuple[Sampled, ...]
    unreadable: tuple[Unreadable, ...]


def read_samples(folder: Path) -> Samples:
    """Find the pairs of image and sidecar under a folder; images are not decoded yet.

    Whatever is wrong with one file is a line in `unreadable`. Raises `InputError` when the folder does not exist or
    has neither images nor sidecars.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    good, unreadable = [], []
    for found in _pairs(folder):
        if isinstance(found, Sampled):
            good.append(found)
        else:
            unreadable.append(found)
    if not good and not unreadable:
        raise InputError(f"{folder} has no sampled images: no pair of NAME.jpg (or another image type) and NAME.json")
    good.sort(key=lambda sampled: (-sampled.sample.ood_score, str(sampled.image)))
    return Samples(folder=folder, good=tuple(good), unreadable=tuple(unreadable))


def _pairs(folder: Path) -> Iterator[Sampled | Unreadable]:
    images: dict[Path, list[Path]] = {}
    sidecars: list[Path] = []
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or not path.is_file():
            continue
        if suffix in IMAGE_SUFFIXES:
            images.setdefault(path.with_suffix(""), []).append(path)
        elif suffix == ".json":
            sidecars.append(path)
    stems = {path.with_suffix("") for path in sidecars}
    for stem, paths in images.items():
        names = [str(path.relative_to(folder)) for path in paths]
        if stem not in stems:
            yield from (Unreadable(name, "no sidecar: its .json file is missing") for name in names)
        elif len(paths) > 1:
            yield from (Unreadable(name, "several images share one sidecar") for name in names)
    for path in sidecars:
        name, found = str(path.relative_to(folder)), images.get(path.with_suffix(""), [])
        if not found:
            yield Unreadable(name, "no image: there is only the sidecar")
        elif len(found) == 1:
            sample = _sidecar(path)
            yield Unreadable(name, sample) if isinstance(sample, str) else Sampled(found[0], sample)


def _sidecar(path: Path) -> FlaggedSample | str:
    """The sidecar, or in words what is wrong with it."""
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            return f"the sidecar has more than {MAX_SIDECAR_BYTES:,} bytes"
        return FlaggedSample.model_validate_json(path.read_bytes())
    except OSError as error:
        return f"the sidecar cannot be read ({error.strerror})"
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"the sidecar does not fit: {where + ': ' if where else ''}{first['msg']}"

"""A folder of sampled flagged images and their sidecars, all of them untrusted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import ValidationError

from oodguard.core.answers import FlaggedSample
from oodguard.core.errors import InputError
from oodguard.core.formats import IMAGE_SUFFIXES

MAX_SIDECAR_BYTES = 1 << 20


@dataclass(frozen=True)
class Sampled:
    """One image file and its sidecar."""

    image: Path
    sample: FlaggedSample


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be used, and why."""

    file: str
    why: str


@dataclass(frozen=True)
class Samples:
    """The contents of a folder: pairs, highest OOD score first, and the files that belong to no pair."""

    folder: Path
    good: tuple[Sampled, ...]
    unreadable: tuple[Unreadable, ...]


def read_samples(folder: Path) -> Samples:
    """Find the pairs of image and sidecar in a folder and below, without decoding the images.

    A file that cannot be used is an entry of `unreadable`. Raises `InputError` when the folder does not exist or has
    neither images nor sidecars.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name one that oodguard serve --sample-dir fills")
    images: dict[Path, list[Path]] = {}
    sidecars: dict[Path, Path] = {}
    for path in sorted(folder.rglob("*")):
        suffix, stem = path.suffix.lower(), path.with_suffix("")
        if path.name.startswith(".") or not path.is_file():
            continue
        if suffix in IMAGE_SUFFIXES:
            images.setdefault(stem, []).append(path)
        elif suffix == ".json":
            sidecars[stem] = path
    if not images and not sidecars:
        raise InputError(f"{folder} has no sampled images: no pair of NAME.jpg (or another image type) and NAME.json")
    good: list[Sampled] = []
    unreadable: list[Unreadable] = []

    def refuse(path: Path, why: str) -> None:
        unreadable.append(Unreadable(str(path.relative_to(folder)), why))

    for stem in sorted(images.keys() | sidecars.keys()):
        found, sidecar = images.get(stem, []), sidecars.get(stem)
        if sidecar is None or len(found) > 1:
            for image in found:
                refuse(image, "several images share one sidecar" if sidecar else "this image has no sidecar (.json)")
        elif not found:
            refuse(sidecar, "this sidecar has no image")
        else:
            try:
                good.append(Sampled(found[0], _read_sidecar(sidecar)))
            except InputError as error:
                refuse(sidecar, str(error))
    good.sort(key=lambda sampled: (-sampled.sample.ood_score, str(sampled.image)))
    return Samples(folder=folder, good=tuple(good), unreadable=tuple(unreadable))


def accepted(folder: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """The images of a folder of samples that `names` name, as absolute paths: file names, or patterns of them.

    Raises `InputError` for a name that no image has, for a path that cannot stand on a line of a list, and as
    `read_samples` does.
    """
    images = [sampled.image for sampled in read_samples(folder).good]
    found: set[Path] = set()
    for name in names:
        named = [path for path in images if name in (path.name, path.relative_to(folder).as_posix())]
        named = named or [path for path in images if fnmatchcase(path.name, name)]
        if not named:
            raise InputError(
                f"no sampled image in {folder} is called {name}; the page of oodguard review has the names"
            )
        found.update(named)
    paths = tuple(sorted(path.absolute() for path in found))
    if odd := next((path for path in paths if not str(path).isprintable()), None):
        raise InputError(f"{odd} cannot stand on a line of a list; rename it")
    return paths


def _read_sidecar(path: Path) -> FlaggedSample:
    """Raises `InputError`."""
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            raise InputError(f"the sidecar has more than {MAX_SIDECAR_BYTES:,} bytes")
        return FlaggedSample.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"the sidecar cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"the sidecar is not valid: {where + ': ' if where else ''}{first['msg']}") from None

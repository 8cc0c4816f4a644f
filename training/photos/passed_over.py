"""Files among the photos that training does not read: where they lie, or how they are named, keeps them out."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from oodguard.core.formats import IMAGE_SUFFIXES, format_of
from oodguard.training.photos.labelled import Photos
from oodguard.training.photos.reasons import HEAD, content

# Written by operating systems into every folder that somebody looks at.
_LITTER = {"thumbs.db", "desktop.ini", "ehthumbs.db"}


@dataclass(frozen=True)
class PassedOver:
    """A file that training does not read, relative to the data folder, and why. image: whether it is a photo."""

    name: str
    reason: str
    image: bool


def passed_over(source: Path, photos: Photos) -> tuple[PassedOver, ...]:
    """Every file in a data folder or archive that is not one of its photos; files of the system are left out.

    Hidden files count where their content is a photo's.
    """
    taken = {photos.name(photo) for photo in (*photos.pool, *photos.test)}
    members = _archived(source) if source.is_file() else _files(photos.root)
    found = [_named(name, head) for name, head in members if name not in taken and not _is_litter(name, head)]
    return tuple(sorted(found, key=lambda file: (not file.image, file.name)))


def _named(name: str, head: bytes) -> PassedOver:
    kind, suffix = format_of(head), PurePosixPath(name).suffix
    if kind is None:
        return PassedOver(name, content(head), image=False)
    if PurePosixPath(name).name.startswith("."):
        return PassedOver(name, f"a hidden {kind.name} file; rename it to use it", image=True)
    if suffix.lower() in IMAGE_SUFFIXES:
        return PassedOver(name, "in no class folder; move it into the folder of its class", image=True)
    without = f"a {kind.name} file named {suffix}" if suffix else f"a {kind.name} file without a suffix"
    return PassedOver(name, f"{without}; add {kind.suffixes[0]} to its name to use it", image=True)


def _is_litter(name: str, head: bytes) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts) or "__MACOSX" in parts
    return parts[-1].lower() in _LITTER or (hidden and format_of(head) is None)


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in root.rglob("*"):
        if path.is_file():
            try:
                with path.open("rb") as stream:
                    yield path.relative_to(root).as_posix(), stream.read(HEAD)
            except OSError:
                continue


def _archived(archive: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            # The first bit: encrypted.
            if not info.is_dir() and not info.flag_bits & 1:
                with opened.open(info) as stream:
                    yield info.filename, stream.read(HEAD)

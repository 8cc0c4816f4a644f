"""A zip file of photos, unpacked by content into the cache."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.formats import IMAGE_SUFFIXES
from oodguard.core.photo_folders import HEAD, is_litter
from oodguard.core.text import visible
from oodguard.training.photos.photo import PassedOver, instead
from oodguard.training.photos.tree import content_kind

MAX_ZIP_BYTES = 64 * 1024**3


@dataclass(frozen=True)
class Unzipped:
    """The folder that the photos of an archive were unpacked to, and the members that are none."""

    folder: Path
    passed: tuple[PassedOver, ...]


def unzip(archive: Path, cache: Path) -> Unzipped:
    """Unpack the photos of a zip once; nothing can be written outside the cache. Raises `InputError`."""
    shown = visible(str(archive))
    if not zipfile.is_zipfile(archive):
        raise InputError(f"{shown} is neither a folder nor a zip file")
    try:
        with archive.open("rb") as stream:
            # Which members are photos changes with the formats that are read.
            content = hashlib.file_digest(stream, "sha256").hexdigest() + "".join(IMAGE_SUFFIXES)
        target = cache / "unzipped" / hashlib.sha256(content.encode()).hexdigest()[:32]
        with zipfile.ZipFile(archive) as opened:
            photos, passed = _members(opened, shown)
            if not target.is_dir():
                _extract(opened, photos, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{shown} cannot be unpacked ({error}); pack the photos again") from None
    except OSError as error:
        raise EnvironmentProblem(f"{shown} cannot be unpacked into {cache} ({error.strerror or error})") from None
    return Unzipped(target, passed)


def _members(opened: zipfile.ZipFile, shown: str) -> tuple[list[zipfile.ZipInfo], tuple[PassedOver, ...]]:
    """The photos among the members, and the others. Raises `InputError` where there are none, or too large ones."""
    photos, passed = [], []
    for info, name in _files(opened, shown):
        with opened.open(info) as stream:
            found = content_kind(name, stream.read(HEAD))
        if found is None:
            photos.append(info)
        elif found.reason:
            passed.append(found)
    if not photos:
        raise InputError(f"{shown} has no images{instead(passed)}; pack class folders of photos")
    if sum(info.file_size for info in photos) > MAX_ZIP_BYTES:
        raise InputError(f"{shown} would unpack to more than {MAX_ZIP_BYTES // 1024**3} GiB; unpack it yourself")
    return photos, tuple(passed)


def _files(opened: zipfile.ZipFile, shown: str) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    for info in opened.infolist():
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{shown} holds {visible(info.filename)}, a path outside the archive; pack it again")
        if not info.is_dir() and not any(map(is_litter, path.parts)):
            yield info, info.filename


def _extract(opened: zipfile.ZipFile, photos: list[zipfile.ZipInfo], target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    for info in photos:
        opened.extract(info, partial)
    partial.rename(target)

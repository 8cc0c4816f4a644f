"""Photos in shards and Parquet files: unpacked once into the cache, beside a table of their labels."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.formats import format_of
from oodguard.core.photo_folders import Part
from oodguard.core.text import visible
from oodguard.training.photos.tables import Entry

MAX_BYTES = 64 * 1024**3
TABLE = "photos.csv"
# Changes with how photos are unpacked: what was unpacked otherwise is not read.
_VERSION = 1
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 80


@dataclass(frozen=True)
class PackedPhoto:
    """One photo of a shard: where it stands there, what it is called, its bytes (none: missing), label and part.

    shard: the name of the file that it is in.
    """

    shard: str
    where: str
    name: str
    data: bytes
    label: str
    part: Part


def unpacked(
    sources: Sequence[Path], how: Sequence[str | None], photos: Callable[[], Iterator[PackedPhoto]], cache: Path
) -> Path:
    """A folder with the photos of `sources` and their table, by the content of the sources and by `how` they are read.

    Nothing is named by what the sources say: names become plain letters, so that nothing lies outside of the folder.
    A photo without bytes becomes an empty file, which is unreadable and named as such. Raises `InputError` where all
    would be larger than `MAX_BYTES`, `EnvironmentProblem` where they cannot be written.
    """
    key = json.dumps([_VERSION, *(_digest(source) for source in sources), [source.name for source in sources], *how])
    target = cache / "unpacked" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.partial-"))
        try:
            if not _write(photos(), partial):
                raise InputError(
                    f"{visible(str(sources[0]))} has no photos with bytes; give shards or Parquet files of images"
                )
            _finish(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"photos cannot be unpacked into {target.parent} ({error.strerror or error}); choose another --cache"
        ) from None
    return target


def unpacked_entries(folder: Path) -> tuple[Entry, ...]:
    """The rows of the table in a folder that `unpacked` wrote, whose labels are read already."""
    with (folder / TABLE).open(encoding="utf-8", newline="") as stream:
        return tuple(Entry(path, path, label, Part(part)) for path, label, part in csv.reader(stream))


def _digest(source: Path) -> str:
    with source.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _finish(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        # Another process has unpacked the same photos meanwhile.
        if not target.is_dir():
            raise


def _write(photos: Iterator[PackedPhoto], folder: Path) -> int:
    """Write the photos and their table; return how many bytes they have."""
    total = 0
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        for number, photo in enumerate(photos):
            total += len(photo.data)
            if total > MAX_BYTES:
                raise InputError(f"{photo.where} and what is before it are more than {MAX_BYTES // 1024**3} GiB")
            path = f"{_plain_text(photo.shard)}/{number:07d}-{_plain(photo)}"
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(photo.data)
            table.writerow([path, photo.label, photo.part])
    return total


def _plain(photo: PackedPhoto) -> str:
    """A name of letters, digits, dots and hyphens, with the suffix of what the photo is."""
    kind = format_of(photo.data)
    other = ".bin" if photo.data else ".no-bytes"
    return _plain_text(PureWindowsPath(photo.name).stem) + (kind.suffixes[0] if kind else other)


def _plain_text(text: str) -> str:
    return _PLAIN.sub("_", text).strip("._")[:_LONGEST] or "photo"

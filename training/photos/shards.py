"""Shards of WebDataset: tar files in which the files of one sample share a name, `0001.jpg` and `0001.cls`."""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodguard.core.columns import LABELS, PATH_OPTION, Columns, chosen
from oodguard.core.errors import InputError
from oodguard.core.formats import IMAGE_SUFFIXES, format_of
from oodguard.core.images import OWN_LIMITS
from oodguard.core.photo_folders import HEAD, Part
from oodguard.core.tarballs import DamagedTar, Member, Unpacked, members, open_tar
from oodguard.core.text import visible
from oodguard.training.photos.labels import LabelReader
from oodguard.training.photos.packed import PackedPhoto

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Endings that hold a label, the usual one first.
LABEL_ENDINGS = ("cls", "json", "txt")
# What the text of a label may have.
MAX_LABEL = 1 << 20


@dataclass
class _Sample:
    """The files of one key, by their ending; others: endings of files that are neither images nor labels."""

    key: str
    images: dict[str, bytes] = field(default_factory=dict)
    labels: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def photos_of_shard(shard: Path, columns: Columns, part: Part, labels: LabelReader) -> Iterator[PackedPhoto]:
    """The photos of one shard in order. Raises `InputError`, which names the sample, for one without a label or image.

    The label of a sample is in KEY.cls, KEY.json (a label, or an object with one) or KEY.txt.
    """
    for sample in _samples(shard, columns):
        where = f"{visible(sample.key)} of {visible(shard.name)}"
        if not sample.images and not sample.others:
            # An index, or what was noted of the whole shard.
            continue
        if not sample.images:
            raise InputError(f"{where} has no image that can be read, and {', '.join(map(visible, sample.others))}")
        if len(sample.images) > 1:
            raise InputError(
                f"{where} has several images ({', '.join(map(visible, sample.images))}); name the ending of one with "
                f"{PATH_OPTION}"
            )
        ((ending, data),) = sample.images.items()
        yield PackedPhoto(
            shard=shard.name,
            where=where,
            name=f"{sample.key}.{ending}",
            data=data,
            label=labels.read(_label(sample, columns, where), where=where),
            part=part,
        )
    labels.require_single()


def _label(sample: _Sample, columns: Columns, where: str) -> Any:
    for ending in LABEL_ENDINGS if columns.label not in LABEL_ENDINGS else (columns.label,):
        data = sample.labels.get(ending)
        if data is None:
            continue
        try:
            text = data.decode("utf-8-sig").strip()
            found = json.loads(text) if ending == "json" else text
        except ValueError as error:
            raise InputError(f"the {ending} of {where} cannot be read ({error})") from None
        if isinstance(found, Mapping):
            column = chosen(None if columns.label in LABEL_ENDINGS else columns.label, LABELS, [*found])
            found = None if column is None else found[column]
        if found is not None:
            return found
    raise InputError(
        f"{where} has no label beside it (.cls, .json or .txt); where folders are the classes, unpack the file and give"
        " the folder"
    )


def _samples(shard: Path, columns: Columns) -> Iterator[_Sample]:
    """The samples of a shard: files that follow each other and share what is before the first dot of their name."""
    sample: _Sample | None = None
    seen: set[str] = set()
    for key, ending, member in _members(shard):
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            if key in seen:
                raise InputError(
                    f"the files of {visible(key)} in {visible(shard.name)} do not follow each other; write the shard "
                    "in the order of names (tar --sort=name)"
                )
            seen.add(key)
            sample = _Sample(key)
        if ending in LABEL_ENDINGS:
            sample.labels[ending] = member.read(MAX_LABEL)
        elif ending == columns.path if columns.path else member.is_image(ending):
            sample.images[ending] = member.read(OWN_LIMITS.max_bytes)
        else:
            sample.others.append(ending)
    if sample is not None:
        yield sample


@dataclass(frozen=True)
class _Member:
    """A file of a shard, to be read at once."""

    stream: Unpacked
    about: Member
    shard: Path

    def is_image(self, ending: str) -> bool:
        """Whether it is named like an image, or begins like one."""
        if f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES:
            return True
        return format_of(self._read(min(HEAD, self.about.size))) is not None

    def read(self, most: int) -> bytes:
        """All of it. Raises `InputError` for more than `most` bytes."""
        if self.about.size > most:
            raise InputError(
                f"{visible(self.about.name)} of {visible(self.shard.name)} has {self.about.size:,} bytes; at most "
                f"{most:,} are read"
            )
        return self._read(self.about.size)

    def _read(self, size: int) -> bytes:
        with _damage(self.shard):
            self.stream.seek(self.about.offset)
            return self.stream.read(size)


def _members(shard: Path) -> Iterator[tuple[str, str, _Member]]:
    """The ordinary files of a shard with their keys and endings. Raises `InputError` where it is damaged."""
    with _damage(shard), open_tar(str(shard)) as stream:
        for about in members(stream):
            key, ending = _split(about.name)
            if about.folder or not key or not ending:
                continue
            if not about.regular:
                raise InputError(
                    f"{visible(about.name)} of {visible(shard.name)} is a link or a device; write it as a file"
                )
            yield key, ending, _Member(stream, about, shard)


@contextmanager
def _damage(shard: Path) -> Iterator[None]:
    """Whatever reading a tar raises, as an `InputError`."""
    try:
        yield
    except (DamagedTar, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise InputError(
            f"{visible(str(shard))} is damaged ({str(error) or type(error).__name__}); write it again"
        ) from None


def _split(name: str) -> tuple[str, str]:
    """The key and the ending of a member, as WebDataset divides its name: at the first dot behind the last slash."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return (f"{folder}{slash}{stem}" if stem else ""), ending.lower()


def is_tar(file: Path, head: bytes) -> bool:
    """Whether a file is a tar, packed or not, by its first 512 bytes and its name."""
    return head[257:262] == b"ustar" or (bool(head) and file.name.lower().endswith(SUFFIXES))

"""Labelled photos in memory: what one is, and what a data set is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from oodguard.core.text import visible
from oodguard.training.record import Duplicates


@dataclass(frozen=True)
class Photo:
    """One image file, its class, and the SHA-256 of its bytes (its identity everywhere)."""

    path: Path
    label: str
    sha256: str


@dataclass(frozen=True)
class PassedOver:
    """A file that training does not read, relative to the data folder, and why.

    image: whether it is a photo. unreadable: whether it is one in a class folder, of a kind that is not read.
    """

    name: str
    reason: str
    image: bool
    unreadable: bool = False


@dataclass(frozen=True)
class Photos:
    """A labelled data set: the images to learn from and, where the user gave one, the test split.

    held: images that are to calibrate, where a wrapped classifier has not been trained on them. root: the data folder,
    or the folder that an archive was unpacked to. left_out: how many photos were left out on demand, by their kind.
    passed: every file of the data that is not one of these photos, but for what systems leave in folders. layout: how
    the folders were read, in words. duplicates: the copies that were found in test/ and under several labels.
    """

    pool: tuple[Photo, ...]
    test: tuple[Photo, ...]
    held: tuple[Photo, ...] = ()
    root: Path = Path()
    left_out: Mapping[str, int] = field(default_factory=dict)
    passed: tuple[PassedOver, ...] = ()
    layout: str = ""
    duplicates: Duplicates | None = None

    def name(self, photo: Photo) -> str:
        """The path of a photo relative to the data folder, with slashes."""
        inside = photo.path.is_relative_to(self.root)
        return (photo.path.relative_to(self.root) if inside else photo.path).as_posix()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted."""
        return tuple(sorted({photo.label for photo in self.pool}))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every image's identity and label: the same photos give the same value anywhere."""
        digest = hashlib.sha256()
        for split, photos in (("pool", self.pool), ("test", self.test), ("held", self.held)):
            for line in sorted(f"{split}\0{photo.label}\0{photo.sha256}\n" for photo in photos):
                digest.update(line.encode())
        return digest.hexdigest()

    def without(self, labels: frozenset[str]) -> Photos:
        """The same data without some classes."""
        return replace(
            self,
            pool=tuple(p for p in self.pool if p.label not in labels),
            test=tuple(p for p in self.test if p.label not in labels),
            held=tuple(p for p in self.held if p.label not in labels),
        )

    def without_photos(self, dropped: Mapping[Photo, str]) -> Photos:
        """The same data without some photos, each with its kind of suspect."""
        return replace(
            self,
            pool=tuple(p for p in self.pool if p not in dropped),
            test=tuple(p for p in self.test if p not in dropped),
            held=tuple(p for p in self.held if p not in dropped),
            left_out=Counter(dropped.values()),
        )


def instead(passed: Sequence[PassedOver]) -> str:
    """What lies where no photos are, in brackets; nothing where nothing does."""
    if not passed:
        return ""
    files = "other file" if len(passed) == 1 else "other files"
    return f" ({len(passed):,} {files}, the first {visible(passed[0].name)}: {passed[0].reason})"


def identity(photos: Iterable[Photo]) -> str:
    """One SHA-256 for photos in their order."""
    return hashlib.sha256("".join(photo.sha256 for photo in photos).encode()).hexdigest()

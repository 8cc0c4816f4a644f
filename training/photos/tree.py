"""A folder as it lies on disk: which of its files are photos, by their content, and what every other file is."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from oodguard.core.errors import InputError
from oodguard.core.formats import format_of
from oodguard.core.photo_folders import HEAD, is_litter, looks_like_photo
from oodguard.core.text import visible
from oodguard.training.photos.photo import PassedOver
from oodguard.training.photos.reasons import content, is_picture

# Links that lead from folder to folder to folder are followed so far.
MAX_LINKS = 8


@dataclass(frozen=True)
class PhotoTree:
    """A folder: the photos in it, the other files in it, and the folders in it, each in the order of its name.

    name: its path below the data folder, with slashes; "" for the data folder itself. linked: whether it is a link.
    """

    path: Path
    name: str
    linked: bool
    photos: tuple[Path, ...]
    others: tuple[PassedOver, ...]
    folders: tuple[PhotoTree, ...]

    @cached_property
    def below(self) -> tuple[Path, ...]:
        """The photos in it and in the folders in it; a file that links lead to twice is there once."""
        trees = tuple(self.walk())
        every = [path for tree in trees for path in tree.photos]
        if any(tree.linked for tree in trees):
            every = list({os.path.realpath(path): path for path in reversed(every)}.values())
        return tuple(sorted(every))

    def without(self, ignored: Collection[str]) -> PhotoTree:
        """The tree without hidden folders, and without those whose names or paths are `ignored`."""
        kept = [
            one for one in self.folders if not (one.path.name.startswith(".") or {one.path.name, one.name} & {*ignored})
        ]
        return replace(self, folders=tuple(one.without(ignored) for one in kept))

    def walk(self) -> Iterator[PhotoTree]:
        """The folder itself and all folders in it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()


def read_tree(root: Path) -> PhotoTree:
    """Everything below a folder, linked folders too. Raises `InputError` for a folder that cannot be read.

    A link back to a folder that it lies in is not followed.
    """
    return _read(root, "", linked=False, above=(), links=0)


def _read(folder: Path, name: str, *, linked: bool, above: tuple[str, ...], links: int) -> PhotoTree:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"the folder {visible(str(folder))} cannot be read ({error.strerror}); allow it, or move the folder away"
        ) from None
    inside = (*above, os.path.realpath(folder))
    photos: list[Path] = []
    others: list[PassedOver] = []
    folders: list[PhotoTree] = []
    for entry in entries:
        if is_litter(entry.name):
            continue
        path, below = Path(entry.path), f"{name}/{entry.name}" if name else entry.name
        if entry.is_dir():
            link = entry.is_symlink()
            if link and (os.path.realpath(path) in inside or links == MAX_LINKS):
                continue
            folders.append(_read(path, below, linked=link, above=inside, links=links + link))
        else:
            found = file_kind(path, below)
            if found is None:
                photos.append(path)
            elif found.reason:
                others.append(found)
    return PhotoTree(folder, name, linked, tuple(photos), tuple(others), tuple(folders))


def file_kind(path: Path, name: str) -> PassedOver | None:
    """None for a photo; for another file what it is, without a reason for one that nobody would miss."""
    suspected = looks_like_photo(path.name, b"")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return PassedOver(name, "neither a file nor a folder", image=False)
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except FileNotFoundError:
        return PassedOver(name, "a link to a file that is not there", image=suspected, unreadable=suspected)
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
        return PassedOver(name, reason, image=suspected, unreadable=suspected)
    return content_kind(name, head)


def content_kind(name: str, head: bytes) -> PassedOver | None:
    """As `file_kind`, from a file's first bytes."""
    kind = format_of(head)
    if any(part.startswith(".") for part in PurePosixPath(name).parts):
        what = f"a hidden {kind.name} file; rename it to use it" if kind else ""
        return PassedOver(name, what, image=kind is not None)
    if looks_like_photo(name, head):
        return None
    picture = is_picture(head)
    return PassedOver(name, content(head), image=picture, unreadable=picture)

"""Labelled photos on disk: finding them, and naming what is wrong with them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.formats import FORMAT_NAMES
from oodguard.core.photo_folders import FolderRules, Part, same_class
from oodguard.core.text import visible
from oodguard.training.options import DIGITS
from oodguard.training.photos.layout import FolderReader
from oodguard.training.photos.minimum import MIN_PER_CLASS, require_enough
from oodguard.training.photos.passed_over import passed_over
from oodguard.training.photos.photo import PassedOver, Photo, Photos, identity, instead
from oodguard.training.photos.sources import listed_photos
from oodguard.training.photos.tree import PhotoTree, read_tree
from oodguard.training.photos.zipped import unzip

__all__ = (
    "MIN_PER_CLASS",
    "Photo",
    "PhotoSource",
    "Photos",
    "find_photos",
    "identity",
    "load_photos",
    "load_unlabelled",
    "require_enough",
)


@dataclass(frozen=True)
class PhotoSource:
    """A data folder, opened: its tree, how it is read, and what an archive holds besides photos."""

    tree: PhotoTree
    reader: FolderReader
    elsewhere: tuple[PassedOver, ...] = ()

    @property
    def root(self) -> Path:
        """The data folder, or the folder that an archive was unpacked to."""
        return self.tree.path

    def passed(self, taken: Iterable[Photo]) -> tuple[PassedOver, ...]:
        """Every file but the photos that were `taken`."""
        return passed_over(
            self.tree, {photo.path for photo in taken}, self.elsewhere, ignored=self.reader.rules.ignored
        )


def open_photos(source: Path, cache: Path, rules: FolderRules | None = None) -> PhotoSource:
    """What `source` stands for: a folder, what a zip unpacks to, or the embedded example. Raises `InputError`."""
    reader = FolderReader(rules or FolderRules())
    if str(source) == DIGITS and not source.exists():
        from oodguard.training.photos.digits import write_digits

        source = write_digits(cache)
    if not source.exists():
        raise InputError(f"{visible(str(source))} does not exist")
    if source.is_file():
        unzipped = unzip(source, cache)
        return PhotoSource(read_tree(unzipped.folder), reader, unzipped.passed)
    return PhotoSource(read_tree(source), reader)


def load_photos(source: Path, cache: Path, rules: FolderRules | None = None) -> Photos:
    """Find the labelled photos of `source`: class folders, train, val and test of class folders, or a zip of either; a
    table of paths and labels, shards, or Parquet files of images.

    `val` images join the pool: the calibration set is chosen from the pool by content, so that near-duplicates stay
    on one side. Raises `InputError` in one sentence for anything that cannot be trained on.
    """
    found = find_photos(source, cache, rules)
    require_enough(Counter(photo.label for photo in found.pool))
    return found


def find_photos(source: Path, cache: Path, rules: FolderRules | None = None) -> Photos:
    """As `load_photos`, but classes may be as small as they are. Raises `InputError` where there are not 2 classes."""
    listed = listed_photos(source, cache, (rules or FolderRules()).columns)
    if listed is None:
        found, places = _in_folders(source, cache, rules)
    else:
        found, places = listed, dict(zip(Part, Part, strict=True))
    parts = zip(Part, (found.pool, found.held, found.test), strict=True)
    require_known({places[part]: part_classes(photos) for part, photos in parts if photos or part is Part.TRAIN})
    found = replace(found, pool=found.pool + found.held, held=())
    if len(found.classes) < 2:
        raise InputError(f"{visible(str(source))} has one class ({visible(found.classes[0])}); at least 2 are needed")
    return found


def _in_folders(source: Path, cache: Path, rules: FolderRules | None) -> tuple[Photos, Mapping[Part, str]]:
    """The photos of class folders, those of val as `held`; and where each part lies."""
    opened = open_photos(source, cache, rules)
    layout = opened.reader.layout(opened.tree)
    train, val, test = (labelled(layout.parts.get(part, {})) for part in Part)
    passed = opened.passed((*train, *val, *test))
    if not train + val:
        raise InputError(
            f"{visible(str(source))} has no images ({', '.join(FORMAT_NAMES)}) in class folders{instead(passed)}"
        )
    found = Photos(pool=train, held=val, test=test, root=opened.root, layout=layout.words, passed=passed)
    return found, layout.places


def every_photo(source: Path, cache: Path, rules: FolderRules | None = None) -> tuple[Photo, ...]:
    """All photos of a source, whatever its layout and its labels. Raises `InputError` where nothing is there."""
    listed = listed_photos(source, cache, (rules or FolderRules()).columns)
    if listed is not None:
        return (*listed.pool, *listed.held, *listed.test)
    return unlabelled(open_photos(source, cache, rules).tree)


def part_classes(photos: Iterable[Photo]) -> frozenset[str]:
    """The labels of photos."""
    return frozenset(photo.label for photo in photos)


def require_distinct(places: Mapping[str, frozenset[str]]) -> None:
    """Raise `InputError` for two classes whose names differ in capital letters alone, or in how Unicode writes them.

    places: the parts of a data set, each with the classes in it.
    """
    seen: dict[str, tuple[str, str]] = {}
    for place, labels in places.items():
        for label in sorted(labels):
            other, where = seen.setdefault(same_class(label), (label, place))
            if other != label:
                raise InputError(
                    f"the classes {visible(other)} of {where} and {visible(label)} of {place} differ only in capital "
                    "letters or in how their letters are coded; give both one name"
                )


def require_known(places: Mapping[str, frozenset[str]]) -> None:
    """As `require_distinct`; and every class must be among those of the first part, which trains."""
    require_distinct(places)
    first, known = next(iter(places.items()))
    for place, labels in places.items():
        if extra := sorted(labels - known):
            raise InputError(
                f"{place} has classes that {first} lacks: {_listed(extra)}; add training images or remove them"
            )


def labelled(classes: Mapping[str, tuple[Path, ...]]) -> tuple[Photo, ...]:
    """The photos of classes."""
    return tuple(_photo(path, label) for label, paths in classes.items() for path in paths)


def unlabelled(tree: PhotoTree) -> tuple[Photo, ...]:
    """The photos of a folder, whatever its layout; the label is the name of the folder they lie in."""
    return tuple(_photo(path, path.parent.name) for path in tree.below)


def load_unlabelled(source: Path) -> tuple[Photo, ...]:
    """All images under a folder, as `unlabelled` reads it. Raises `InputError` where there are none."""
    if not source.is_dir():
        raise InputError(f"{visible(str(source))} is not a folder")
    tree = read_tree(source)
    photos = unlabelled(tree)
    if not photos:
        raise InputError(
            f"{visible(str(source))} has no images ({', '.join(FORMAT_NAMES)}){instead(passed_over(tree, set()))}"
        )
    return photos


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(visible, names[:most])) + more


def _photo(path: Path, label: str) -> Photo:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
    except OSError as error:
        raise InputError(f"{visible(str(path))} cannot be read ({error.strerror})") from None
    return Photo(path=path, label=label, sha256=digest.hexdigest())

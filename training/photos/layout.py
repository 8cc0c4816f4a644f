"""What the folders of a data set mean: which of them are splits, and which are classes; what is unclear is refused."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.photo_folders import FolderRules, Part, is_like_split, split_of, unwrapped
from oodguard.core.text import visible
from oodguard.training.photos.photo import instead
from oodguard.training.photos.tree import PhotoTree

Classes = Mapping[str, tuple[Path, ...]]
LISTED = 6


@dataclass(frozen=True)
class PhotoLayout:
    """The classes of each part, each with its photos.

    places: the folder that each part lies in, as errors call it. words: how the folders were read.
    """

    parts: Mapping[Part, Classes]
    places: Mapping[Part, str]
    words: str = ""


@dataclass(frozen=True)
class FolderReader:
    """Reads layouts by `rules`. Each method raises `InputError` for folders that it does not understand.

    ```python
    layout = FolderReader().layout(read_tree(Path("photos")))
    ```
    """

    rules: FolderRules = field(default_factory=FolderRules)

    def layout(self, tree: PhotoTree) -> PhotoLayout:
        """The classes of each part of a data folder."""
        tree = self.opened(tree)
        if self.rules.splits and _is_split_below(tree):
            return self._split_below(tree)
        splits = self.splits(tree)
        if splits is None:
            self._require_no_split(tree)
            return PhotoLayout({Part.TRAIN: self.classes(tree)}, {Part.TRAIN: _shown(tree)})
        return PhotoLayout(
            {part: self._classes_of_split(part, folder) for part, folder in splits.items()},
            {part: _shown(folder) for part, folder in splits.items()},
            _words(splits),
        )

    def opened(self, tree: PhotoTree) -> PhotoTree:
        """The folder that holds the splits or the classes, without what is left out."""
        tree = tree.without(self.rules.ignored)
        inner = unwrapped(tree.path, self.rules)
        return next((one for one in tree.walk() if one.path == inner), tree)

    def splits(self, tree: PhotoTree, *, labelled: bool = True) -> Mapping[Part, PhotoTree] | None:
        """The folders of an opened data folder that are splits; None where it has none that trains.

        labelled: whether their photos lie in class folders.
        """
        found = [(part, one) for one in tree.folders if self.rules.splits and (part := split_of(one.path.name))]
        if Part.TRAIN not in [part for part, _ in found]:
            return None
        if labelled and not any(one.folders for _, one in found):
            names = [one.path.name for _, one in found]
            raise InputError(
                f"{_listed(names)} in {_shown(tree)} {_hold(names)} photos in no class folders; sort them into a "
                f"folder per class, or give --no-splits if {_these(names)}"
            )
        splits: dict[Part, PhotoTree] = {}
        for part, one in found:
            if part in splits:
                raise InputError(
                    f"{splits[part].path.name} and {one.path.name} in {_shown(tree)} are both named like the {part} "
                    "split; put their photos into one of them, or leave one out with --ignore-folder"
                )
            splits[part] = one
        _require_used(tree, splits)
        return splits

    def classes(self, tree: PhotoTree) -> Classes:
        """The classes of a folder; none where it has no folders."""
        tree = self._inner(tree)
        nested = [one for one in tree.folders if not _is_class(one)]
        if nested and self.rules.classes_from is None:
            raise InputError(_nested_sentence(tree, nested))
        found: dict[str, list[Path]] = {}
        for one in tree.folders:
            for label, photos in self._labelled(one, one.path.name):
                found.setdefault(label, []).extend(photos)
        return {label: tuple(sorted(photos)) for label, photos in sorted(found.items())}

    def _labelled(self, folder: PhotoTree, path: str) -> Iterator[tuple[str, Sequence[Path]]]:
        """The classes in a folder of one class, or of several; path: its own below the folder of the classes."""
        if not folder.below:
            raise InputError(_empty_sentence(folder))
        if _is_class(folder) or self.rules.classes_from in (None, "top"):
            yield (path if self.rules.classes_from == "path" else folder.path.name), folder.below
        elif folder.photos:
            inner = [one.path.name for one in folder.folders if one.below]
            raise InputError(
                f"{_shown(folder)} holds {len(folder.photos):,} photos beside folders with photos ({_listed(inner)}); "
                "move them into the folder of their class, or give --classes-from top"
            )
        else:
            for one in folder.folders:
                yield from self._labelled(one, f"{path}/{one.path.name}")

    def _inner(self, tree: PhotoTree) -> PhotoTree:
        """As `opened`, for a split, which some archives wrap in itself: train/train/apple."""
        while len(tree.folders) == 1 and not tree.photos:
            (inner,) = tree.folders
            again = split_of(inner.path.name) is not None
            if inner.photos or not inner.below or (self.rules.classes_from is not None and not again):
                break
            tree = inner
        return tree

    def _classes_of_split(self, part: Part, folder: PhotoTree) -> Classes:
        classes = self.classes(folder)
        if not classes and (folder.below or part is Part.TRAIN):
            raise InputError(
                f"{_shown(folder)} holds {len(folder.below):,} photos in no class folders; sort them into a folder per "
                f"class, or give --ignore-folder {_quoted(folder)}"
            )
        return classes

    def _split_below(self, tree: PhotoTree) -> PhotoLayout:
        """The layout class/split/photos."""
        parts: dict[Part, dict[str, tuple[Path, ...]]] = {}
        for folder in tree.folders:
            for part, split in (self.splits(folder, labelled=False) or {}).items():
                if not split.below:
                    raise InputError(_empty_sentence(split))
                parts.setdefault(part, {})[folder.path.name] = split.below
        places = {part: f"the {part} folders in {_shown(tree)}" for part in parts}
        return PhotoLayout(parts, places, f"every class folder holds its own {_listed(sorted(parts))}")

    def _require_no_split(self, tree: PhotoTree) -> None:
        """Refuse folders named like splits where none of them is one."""
        like = [one.path.name for one in tree.folders if is_like_split(one.path.name)]
        if like and self.rules.splits:
            raise InputError(
                f"{_listed(like)} in {_shown(tree)} {'is' if len(like) == 1 else 'are'} named like splits, and no "
                f"folder named train holds class folders; name splits train, val and test, or give --no-splits if "
                f"{_these(like)}"
            )


def _is_split_below(tree: PhotoTree) -> bool:
    """Whether every folder is a class that holds its own train, and perhaps val and test."""
    inner = [[split_of(one.path.name) for one in folder.folders] for folder in tree.folders]
    alone = not any(folder.photos or split_of(folder.path.name) for folder in tree.folders)
    return len(inner) > 1 and alone and all(None not in parts and Part.TRAIN in parts for parts in inner)


def _is_class(folder: PhotoTree) -> bool:
    """Whether a folder holds a class's photos itself: folders in it hold none, or are links that add some."""
    return all(not one.below or (one.linked and bool(folder.photos)) for one in folder.folders)


def _require_used(tree: PhotoTree, splits: Mapping[Part, PhotoTree]) -> None:
    """Refuse folders of photos beside splits that none of them would use."""
    counts = {}
    for one in tree.folders:
        seen = len(one.below) + sum(other.image for inner in one.walk() for other in inner.others)
        if seen and one not in splits.values():
            counts[one.path.name] = seen
    if counts:
        unused = next(one for one in tree.folders if one.path.name in counts)
        listed = _listed(f"{name} ({count:,} photo{'' if count == 1 else 's'})" for name, count in counts.items())
        raise InputError(
            f"{listed} in {_shown(tree)} would not be used beside {visible(splits[Part.TRAIN].path.name)}; name splits "
            f"train, val and test, or give --ignore-folder {_quoted(unused)}"
        )


def _nested_sentence(tree: PhotoTree, nested: Sequence[PhotoTree]) -> str:
    first = next((one for one in nested if not one.photos), nested[0])
    inner = [one.path.name for one in first.folders if one.below]
    alike = len(nested) == len(tree.folders) > 1 and len({tuple(_names(one)) for one in nested}) == 1
    what = (
        f"all {len(nested)} folders in {_shown(tree)} hold the same folders ({_listed(inner)})"
        if alike
        else f"{_shown(first)} holds folders with photos ({_listed(inner)})"
    )
    splits = any(map(is_like_split, (*inner, *_names(tree))))
    name, example = visible(first.path.name), visible(inner[0])
    also = "name splits train, val and test, or " if splits else ""
    return (
        f"{what}, so it is unclear which folders are classes; {also}"
        f"give --classes-from path ({name}/{example}), leaf ({example}) or top ({name})"
    )


def _names(tree: PhotoTree) -> list[str]:
    return [one.path.name for one in tree.folders if one.below]


def _empty_sentence(folder: PhotoTree) -> str:
    found = instead([other for one in folder.walk() for other in one.others])
    return (
        f"{_shown(folder)} has no photos{found}; add some, remove the folder, or give --ignore-folder {_quoted(folder)}"
    )


def _words(splits: Mapping[Part, PhotoTree]) -> str:
    does = {Part.TRAIN: "trains", Part.VAL: "joins it", Part.TEST: "tests"}
    return ", ".join(f"{visible(splits[part].path.name)}/ {does[part]}" for part in Part if part in splits)


def _these(names: Sequence[str]) -> str:
    return "it is a class" if len(names) == 1 else "they are classes"


def _hold(names: Sequence[str]) -> str:
    return "holds" if len(names) == 1 else "hold"


def _shown(folder: PhotoTree) -> str:
    return visible(str(folder.path))


def _quoted(folder: PhotoTree) -> str:
    return shlex.quote(visible(folder.path.name))


def _listed(names: Iterable[str]) -> str:
    every = [visible(name) for name in names]
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return ", ".join(every[:LISTED]) + more

"""How labelled photos lie in folders: names of splits, what systems leave there, and which folder holds the classes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Literal

from oodguard.core.columns import Columns
from oodguard.core.formats import IMAGE_SUFFIXES, format_of

# So many first bytes are enough to name a file.
HEAD = 4096
# Left by the archives of one operating system.
LITTER = "__MACOSX"
# Folders and files that systems write beside photos, in lower case.
_LITTER_FOLDERS = {LITTER.lower(), "@eadir", "$recycle.bin", "system volume information"}
_LITTER_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "icon\r"}

ClassesFrom = Literal["path", "leaf", "top"]


class Part(StrEnum):
    """What the photos of a split do."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


# Names of splits, in any case, alone or beside one of the words below: training_set, seg_train, ValData.
SPLIT_NAMES = {
    "train": Part.TRAIN,
    "training": Part.TRAIN,
    "val": Part.VAL,
    "valid": Part.VAL,
    "validation": Part.VAL,
    "dev": Part.VAL,
    "test": Part.TEST,
    "testing": Part.TEST,
}
SPLITS = tuple(SPLIT_NAMES)
_BESIDE = {"set", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "seg"}
# What names a split as well, though not which of the three.
_UNCLEAR = {"eval", "evaluation", "holdout", "pred", "prediction", "predictions", "trainval", "trainvaltest"}
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class FolderRules:
    """What folders mean, where their names and their depth do not say it.

    classes_from: which folder is the class of a photo that lies deeper than one folder; None: nothing may. ignored:
    names of folders that are left out, or their paths below the data folder. splits: whether folders named like splits
    are splits. columns: those of a table, where there is one in place of folders.
    """

    classes_from: ClassesFrom | None = None
    ignored: tuple[str, ...] = ()
    splits: bool = True
    columns: Columns = field(default_factory=Columns)


def split_of(name: str) -> Part | None:
    """The split that a folder's name stands for; None for a name that is none, or not clearly one.

    ```python
    split_of("Training")  # Part.TRAIN
    ```
    """
    words = _words(name)
    rest = [word for word in words if word not in _BESIDE]
    if len(rest) != 1 or re.search(r"\d", name):
        return None
    return SPLIT_NAMES.get(rest[0])


def is_like_split(name: str) -> bool:
    """Whether a folder is named like a split, though it may be none that is understood: `train2`, `seg_pred`."""
    rest = [word for word in _words(name) if word not in _BESIDE]
    return bool(rest) and all(word in SPLIT_NAMES or word in _UNCLEAR for word in rest)


def _words(name: str) -> list[str]:
    found = []
    for word in _WORD.findall(_CAMEL.sub(" ", name)):
        low = word.casefold()
        # Written as one word: trainset, testdata.
        ending = next((end for end in ("set", "data", "dataset") if low.removesuffix(end) in SPLIT_NAMES), None)
        found += [low] if ending is None or low in SPLIT_NAMES else [low.removesuffix(ending), ending]
    return found


def is_litter(name: str) -> bool:
    """Whether a system wrote a file or a folder of this name, which holds nobody's photos."""
    low = name.lower()
    return low in _LITTER_FILES or low in _LITTER_FOLDERS


def same_class(name: str) -> str:
    """What two names of classes share that differ only in capital letters or in how Unicode writes them."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def class_above(path: PurePath, classes: Collection[str]) -> str | None:
    """The class in whose folder a photo lies, among `classes`, which may be several folders deep: `fruit/apple`."""
    above = path.parent.parts
    return next((name for start in range(len(above)) if (name := "/".join(above[start:])) in classes), None)


def looks_like_photo(name: str, head: bytes) -> bool:
    """Whether a file is taken for a photo: by its first bytes, or by its suffix where these are damaged."""
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        return True
    kind = format_of(head)
    # A BMP file begins with two letters, as many a text does, and has four zero bytes after its length.
    return kind is not None and (kind.name != "BMP" or head[6:10] == bytes(4))


def unwrapped(folder: Path, rules: FolderRules | None = None) -> Path:
    """The folder that holds the splits or the classes: stepped into a single wrapping folder, as zips have."""
    rules = rules or FolderRules()
    while True:
        entries = [entry for entry in folder.iterdir() if not (entry.name.startswith(".") or is_litter(entry.name))]
        inner = [entry for entry in entries if entry.is_dir() and entry.name not in rules.ignored]
        wraps = len(inner) == 1 and not (rules.splits and split_of(inner[0].name))
        if not wraps or _holds_photos(entries) or _holds_photos(inner[0].iterdir()):
            return folder
        folder = inner[0]


def training_folder(folder: Path) -> Path:
    """The folder of the class folders that train: in an unwrapped folder its split of that kind, or itself."""
    splits = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and split_of(entry.name) is Part.TRAIN]
    return splits[0] if splits else folder


def _holds_photos(entries: Iterable[Path]) -> bool:
    return any(is_photo(entry) for entry in entries if not entry.name.startswith("."))


def is_photo(path: Path) -> bool:
    """Whether a file is taken for a photo, as `looks_like_photo` says; False for what cannot be read."""
    try:
        with path.open("rb") as stream:
            return looks_like_photo(path.name, stream.read(HEAD))
    except OSError:
        return False

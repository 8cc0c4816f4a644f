"""Labelled photos that do not lie in class folders: which kind of source they are, and the photos of each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from oodguard.core.columns import Columns
from oodguard.core.errors import InputError
from oodguard.core.formats import IMAGE_SUFFIXES
from oodguard.core.image_tables import holds_images, is_parquet
from oodguard.core.photo_folders import SPLIT_NAMES, Part, split_of
from oodguard.core.text import visible
from oodguard.training.photos import shards, tables
from oodguard.training.photos.class_names import read_names
from oodguard.training.photos.image_files import photos_of_images
from oodguard.training.photos.labels import LabelReader
from oodguard.training.photos.packed import PackedPhoto, unpacked, unpacked_entries
from oodguard.training.photos.photo import Photos

# Beside shards, whose labels are numbers.
NAMES_FILES = tuple(
    f"{stem}{suffix}"
    for stem in ("classes", "class_names", "classnames", "label_names", "labels", "id2label", "index_to_class")
    for suffix in (".json", ".txt")
)
PARQUET = ".parquet"
_WORD = re.compile(r"[^\W\d_]+")
_BLOCK = 512

Reader = Callable[[Path, Columns, Part, LabelReader], Iterator[PackedPhoto]]


def listed_photos(source: Path, cache: Path, columns: Columns | None = None) -> Photos | None:
    """The photos of a table, of shards, or of Parquet files of images; those of val are `held`.

    None for anything else: a folder of photos, or an archive of such. Shards and Parquet files are one file, or a
    folder of several, each of the split that its name says. Raises `InputError` where a row cannot be understood.
    """
    columns = columns or Columns()
    if source.is_dir():
        files, read = _inside(source)
    elif source.is_file():
        files, read = (source,), _reader(source, columns)
    else:
        return None
    if not files or read is None:
        return tables.photos_of_table(source, columns) if source.is_file() and _is_table(source, columns) else None
    names = _names(files[0].parent, columns)
    parts = _parts(source, files)

    def photos() -> Iterator[PackedPhoto]:
        return (photo for file in files for photo in read(file, columns, parts[file], names))

    how = (columns.path, columns.label, columns.split, *map(str, parts.values()), *(names.names or ()))
    folder = unpacked(files, how, photos, cache)
    return tables.photos_of(unpacked_entries(folder), folder, source=visible(str(source)))


def _reader(file: Path, columns: Columns) -> Reader | None:
    """What reads the photos in a file; None for a file that holds none itself."""
    with file.open("rb") as stream:
        head = stream.read(_BLOCK)
    if is_parquet(head):
        return photos_of_images if holds_images(file, column=columns.path) else None
    return shards.photos_of_shard if shards.is_tar(file, head) else None


def _is_table(file: Path, columns: Columns) -> bool:
    with file.open("rb") as stream:
        if is_parquet(stream.read(4)):
            return True
    return file.suffix.lower() in tables.SUFFIXES or columns.path is not None


def _inside(folder: Path) -> tuple[tuple[Path, ...], Reader | None]:
    """The shards or the Parquet files of a folder and of the folders in it; none where it has photos as well."""
    found: list[Path] = []
    for root, inner, names in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith(".")) if Path(root) == folder else []
        for name in sorted(names):
            low = name.lower()
            if low.endswith(IMAGE_SUFFIXES):
                return (), None
            if low.endswith((PARQUET, *shards.SUFFIXES)) and not name.startswith("."):
                found.append(Path(root, name))
    kinds = {file.name.lower().endswith(PARQUET) for file in found}
    if len(kinds) > 1:
        raise InputError(f"{visible(str(folder))} holds shards and Parquet files; give the folder of one of them")
    return tuple(found), photos_of_images if kinds == {True} else shards.photos_of_shard if found else None


def _names(folder: Path, columns: Columns) -> LabelReader:
    """The class names of shards: as given, or from a file beside them."""
    if columns.class_names is not None:
        return LabelReader(read_names(columns.class_names), strict=True)
    beside = next((folder / name for name in NAMES_FILES if (folder / name).is_file()), None)
    return LabelReader(None if beside is None else read_names(beside))


def _parts(source: Path, files: Sequence[Path]) -> dict[Path, Part]:
    """The split that each file's name says, or that of its folder; all train where none says one, as does one alone."""
    if source.is_file():
        return dict.fromkeys(files, Part.TRAIN)
    found = {file: _part_of(file) or (split_of(file.parent.name) if file.parent != source else None) for file in files}
    if not any(found.values()):
        return dict.fromkeys(files, Part.TRAIN)
    unclear = [file for file, part in found.items() if part is None]
    if unclear:
        clear = next(file for file, part in found.items() if part is not None)
        raise InputError(
            f"{visible(str(unclear[0]))} is named after no split, and {visible(clear.name)} is; name each after train, "
            "val or test"
        )
    return {file: part for file, part in found.items() if part is not None}


def _part_of(file: Path) -> Part | None:
    """`train-00000-of-00002.parquet`, `imagenet-val-0003.tar`: the one split among the words of a name."""
    words = _WORD.findall(file.name.partition(".")[0].casefold())
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None

"""The classes of a classifier: their names in its order, and which of them each folder of photos shows."""

from __future__ import annotations

import ast
import csv
import difflib
import io
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodguard.core.errors import InputError
from oodguard.training.photos.class_names import names_in_order, read_names, short_text

MAX_METADATA = 1 << 20
# What drops a folder, in a mapping.
DROP = "-"
# Where exporters put names: Ultralytics, Paddle's families, Hugging Face's, our own standalone graph.
METADATA_KEYS = ("oodguard.classes", "names", "id2label", "classes", "class_names", "labels", "character")
SHOWN = 4


@dataclass(frozen=True)
class ClassMap:
    """Which of a classifier's classes each folder of photos shows.

    names: in the classifier's order; folders: folder to class, without those that are dropped; source: where the names
    come from; is_assumed: whether it is only assumed that the folders' order is the classifier's.
    """

    names: tuple[str, ...]
    folders: Mapping[str, int]
    source: str
    is_assumed: bool = False

    @property
    def uncovered(self) -> tuple[str, ...]:
        """The classes of which there are no photos."""
        shown = set(self.folders.values())
        return tuple(name for index, name in enumerate(self.names) if index not in shown)

    def targets(self, labels: Iterable[str]) -> list[int]:
        """The class of each label, by its folder; -1 for a folder that is dropped."""
        return [self.folders.get(label, -1) for label in labels]


def match_classes(
    folders: Sequence[str],
    *,
    count: int,
    metadata: Mapping[str, str],
    file: Path | None = None,
    mapping: Path | None = None,
) -> tuple[ClassMap, ...]:
    """The classes of a classifier of `count`, and its folders: names from `file`, else the metadata, else the folders.

    Where only the folders say, there is one map for each order that frameworks give folders (nearly always one in
    all): the accuracy of a trial says which is right. Else there is one. `mapping` renames, merges and drops folders.
    Raises `InputError` where names are not as many as classes, or folders are no classes.
    """
    said = _read_mapping(mapping) if mapping is not None else {}
    unknown = sorted(set(said) - set(folders))
    if unknown:
        raise InputError(f"{mapping} names folders that the photos do not have: {_listed(unknown, folders)}")
    if file is not None:
        return (_named(read_names(file), folders, said, count, file.name),)
    found = names_of_metadata(metadata)
    if found is not None and len(found) == count:
        return (_named(found, folders, said, count, "the file's metadata"),)
    return _ordered(folders, said, count)


def _named(names: Sequence[str], folders: Sequence[str], said: Mapping[str, str], count: int, source: str) -> ClassMap:
    if len(names) != count:
        raise InputError(
            f"{source} names {len(names)} classes and the classifier has {count}; give --classes FILE with a name for "
            "each of them, in its order"
        )
    # ImageNet's cranes are a bird and a machine.
    names = [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names)]
    index = {name: place for place, name in enumerate(names)}
    found, strangers = {}, []
    for folder in folders:
        wanted = said.get(folder, folder)
        if wanted == DROP and folder in said:
            continue
        place = _place(wanted, index, names)
        if place is None:
            strangers.append(wanted)
        else:
            found[folder] = place
    if strangers:
        raise InputError(
            f"the photos have folders that are no classes of {source}: {_listed(strangers, names)}; give --classes-map "
            f"FILE (CSV or TOML: folder, class; {DROP} leaves a folder out) or rename the folders"
        )
    if len(set(found.values())) < 2:
        raise InputError(
            f"the photos show {len(set(found.values()))} of the classifier's {count} classes; give photos of 2 or more"
        )
    return ClassMap(tuple(names), found, source)


def _place(wanted: str, index: Mapping[str, int], names: Sequence[str]) -> int | None:
    """A class by its name, by its name up to case, spaces and signs, or by its number."""
    if wanted in index:
        return index[wanted]
    alike = [place for name, place in index.items() if _plain(name) == _plain(wanted)]
    if len(alike) == 1 and _plain(wanted):
        return alike[0]
    # As an id2label of unnamed classes has them.
    if wanted.isascii() and wanted.isdigit() and int(wanted) < len(names):
        return int(wanted)
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _ordered(folders: Sequence[str], said: Mapping[str, str], count: int) -> tuple[ClassMap, ...]:
    """Nothing names the classes: folders are they, in the order of the framework that the classifier learnt with."""
    names = {folder: said.get(folder, folder) for folder in folders}
    if said and all(name == DROP or name.isdigit() for name in said.values()) and len(said) == len(folders):
        return (_numbered(folders, said, count),)
    classes = sorted({name for folder, name in names.items() if not (name == DROP and folder in said)})
    if len(classes) != count:
        more = "more" if len(classes) > count else "fewer"
        raise InputError(
            f"nothing names the classifier's {count} classes, and the photos have {more} folders ({len(classes)}); "
            "give --classes FILE with their names in its order (one a line, a JSON list, or an id2label)"
        )
    return tuple(
        ClassMap(
            tuple(order),
            {folder: order.index(name) for folder, name in names.items() if name in order},
            f"the folders, {way}",
            is_assumed=True,
        )
        for way, order in folder_orders(classes)
    )


def _numbered(folders: Sequence[str], said: Mapping[str, str], count: int) -> ClassMap:
    """A mapping of all folders to numbers; a class without a folder is called by its number."""
    found = {folder: int(said[folder]) for folder in folders if said[folder] != DROP}
    outside = sorted(folder for folder, place in found.items() if place >= count)
    if outside:
        raise InputError(
            f"--classes-map gives {outside[0]} the number {found[outside[0]]}; the classes are 0 to {count - 1}"
        )
    names = [str(place) for place in range(count)]
    for folder in sorted(found, reverse=True):
        names[found[folder]] = folder
    return ClassMap(tuple(names), found, "the mapping")


def folder_orders(classes: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The different orders that frameworks give class folders, the most usual first.

    sorted: by code points, as torchvision's ImageFolder, timm and Keras; case-blind and by number: as people and file
    managers list them.
    """
    orders = (
        ("sorted", sorted(classes)),
        ("by number", sorted(classes, key=_natural)),
        ("sorted without regard to case", sorted(classes, key=str.casefold)),
    )
    found: list[tuple[str, list[str]]] = []
    for way, order in orders:
        if all(order != other for _, other in found):
            found.append((way, order))
    return found


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.casefold()) for part in re.split(r"([0-9]+)", name)]


def names_of_metadata(metadata: Mapping[str, str]) -> list[str] | None:
    """Class names that an ONNX file's metadata hold, in order; None where they hold none."""
    for key in METADATA_KEYS:
        if (text := metadata.get(key)) is not None and len(text) <= MAX_METADATA:
            found = names_in_order(_parsed(text))
            if found is not None and len(found) >= 2:
                return found
    return None


def _parsed(text: str) -> Any:
    """JSON, the text of a Python literal, or one a line."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text.splitlines() if "\n" in text else text.split(",")


def _read_mapping(path: Path) -> dict[str, str]:
    """Folder to class (its name, its number or `-`): a CSV of two columns, or a TOML of names to names."""
    text = short_text(path)
    if path.suffix.lower() == ".toml":
        try:
            said = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path} is not valid TOML ({error})") from None
        if not all(isinstance(value, str | int) and not isinstance(value, bool) for value in said.values()):
            raise InputError(f'{path} maps folders to classes: write "folder" = "class" (or a number, or "{DROP}")')
        return {folder: str(value) for folder, value in said.items()}
    found: dict[str, str] = {}
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells == ["folder", "class"]):
            continue
        if len(cells) != 2 or not all(cells):
            raise InputError(f"{path}, line {number}: write folder,class (or a number, or {DROP})")
        if cells[0] in found:
            raise InputError(f"{path}, line {number}: {cells[0]} is mapped twice")
        found[cells[0]] = cells[1]
    return found


def _listed(strangers: Sequence[str], names: Sequence[str]) -> str:
    """Some names that are not there, each with the closest that is."""
    shown = []
    for name in strangers[:SHOWN]:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        shown.append(f"{name} (close: {close[0]})" if close else name)
    more = len(strangers) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

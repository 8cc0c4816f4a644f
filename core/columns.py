"""Which columns of a table hold the photo, its label and its split: by their usual names, or as somebody names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oodguard.core.errors import InputError
from oodguard.core.text import visible

# The usual names, in any case; of several in one table the first of these. A class's name says more than its number.
PATHS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path"),
    *("image_name", "image_file", "filepaths", "photo", "image_id", "id"),
)
# What `train` calls the column of paths, or of images.
PATH_OPTION = "--path-column"
LABELS = (
    *("class_name", "label_name", "category_name", "label", "labels", "class", "category", "target", "cls", "species"),
    *("breed", "tag", "tags", "classes", "y"),
)
SPLITS = ("split", "subset", "set", "partition")


@dataclass(frozen=True)
class Columns:
    """Names of columns that somebody gives, and a file of class names; None: by convention.

    In shards of WebDataset, path and label are the endings of the files of a sample.
    """

    path: str | None = None
    label: str | None = None
    split: str | None = None
    class_names: Path | None = None


def chosen(given: str | None, usual: Sequence[str], columns: Sequence[str]) -> str | None:
    """The column of a table: `given` as it is or in another case, or the first that is named as usual; None: none."""
    low = {column.strip().lower(): column for column in reversed(columns)}
    if given is not None:
        return given if given in columns else low.get(given.strip().lower())
    return next((low[name] for name in usual if name in low), None)


def required(given: str | None, usual: Sequence[str], columns: Sequence[str], *, source: str, what: str) -> str:
    """As `chosen`, for a column that must be there. Raises `InputError`, which lists what there is.

    what: what the column holds, which is also its option's name.
    """
    found = chosen(given, usual, columns)
    if found is not None:
        return found
    there = ", ".join(map(visible, columns[:12])) + (", ..." if len(columns) > 12 else "")
    if given is not None:
        raise InputError(f"{source} has no column {visible(given)}; it has {there or 'none'}")
    raise InputError(
        f"{source} has no column for the {what} ({', '.join(usual[:4])}, ...); it has {there or 'none'}: name the one "
        f"that holds it with --{what}-column"
    )

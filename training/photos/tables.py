"""A table that names photos, their labels and their splits: a CSV file, or a Parquet file of paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodguard.core.columns import LABELS, PATHS, SPLITS, Columns, chosen, required
from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.files import file_sha256
from oodguard.core.image_tables import features_of, is_parquet
from oodguard.core.photo_folders import Part, split_of
from oodguard.core.text import visible
from oodguard.training.photos.class_names import read_names
from oodguard.training.photos.delimited import MAX_BYTES, read_delimited
from oodguard.training.photos.labels import LabelReader
from oodguard.training.photos.photo import PassedOver, Photo, Photos

SUFFIXES = (".csv", ".tsv")
ADVICE = "give a CSV or Parquet table with the columns path and label"


@dataclass(frozen=True)
class Entry:
    """One row of a table: where it stands, the path as written there, and what the table says of the photo."""

    where: str
    path: str
    label: str
    part: Part


@dataclass(frozen=True)
class _Rows:
    """The cells of a table. names: those of classes, by column, where the file says them."""

    columns: tuple[str, ...]
    cells: Iterable[tuple[str, Mapping[str, Any]]]
    names: Mapping[str, Sequence[str]]


def photos_of_table(table: Path, columns: Columns) -> Photos:
    """The photos that a table names. Those of val are `held`. Relative paths begin at the table's folder.

    Files that are missing are passed over. Raises `InputError` where a row cannot be understood, where a class has no
    file, and where no row trains.
    """
    return photos_of(read_table(table, columns), table.parent, source=visible(table.name))


def photos_of(entries: Sequence[Entry], folder: Path, *, source: str) -> Photos:
    """The photos of rows whose paths begin at `folder`. Raises as `photos_of_table` does; source: what it names."""
    files = {entry.path: _file(folder, entry) for entry in entries}
    missing = tuple(entry for entry in entries if files[entry.path] is None)
    _require_files(entries, missing, source)
    digests = {path: _sha256(file) for path, file in files.items() if file is not None}
    parts: dict[Part, list[Photo]] = {part: [] for part in Part}
    for entry in entries:
        file = files[entry.path]
        if file is not None:
            parts[entry.part].append(Photo(path=file, label=entry.label, sha256=digests[entry.path]))
    if not parts[Part.TRAIN]:
        raise InputError(f"{source} has no photos to train on, only some of val or test")
    return Photos(
        pool=tuple(parts[Part.TRAIN]),
        held=tuple(parts[Part.VAL]),
        test=tuple(parts[Part.TEST]),
        root=folder,
        passed=tuple(
            PassedOver(entry.path, f"{entry.where} names it, and there is no such file", image=False, unreadable=True)
            for entry in missing
        ),
    )


def read_table(table: Path, columns: Columns) -> tuple[Entry, ...]:
    """The rows of a table in order. Raises `InputError`, which names the row that cannot be understood."""
    shown = visible(table.name)
    with table.open("rb") as stream:
        parquet = is_parquet(stream.read(4))
    rows = _of_parquet(table) if parquet else _of_csv(table)
    path = required(columns.path, PATHS, rows.columns, source=shown, what="path")
    label = required(columns.label, LABELS, rows.columns, source=shown, what="label")
    split = chosen(columns.split, SPLITS, rows.columns)
    if columns.split is not None and split is None:
        required(columns.split, SPLITS, rows.columns, source=shown, what="split")
    stated = read_names(columns.class_names) if columns.class_names else None
    reader = LabelReader(stated or rows.names.get(label), strict=stated is not None)
    cells = tuple(rows.cells)
    if split is not None and columns.split is None and not any(_part(one.get(split)) for _, one in cells):
        # A column of that name which speaks of something else.
        split = None
    entries = tuple(
        Entry(
            where=where,
            path=_path(one.get(path), where),
            label=reader.read(one.get(label), where=where),
            part=Part.TRAIN if split is None else required_part(one.get(split), where),
        )
        for where, one in cells
    )
    if not entries:
        raise InputError(f"{shown} has no rows; {ADVICE}")
    reader.require_single()
    return entries


def _of_csv(table: Path) -> _Rows:
    found = read_delimited(table, advice=ADVICE)
    name = visible(table.name)

    def cells() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for row in found.rows:
            where = f"line {row.line} of {name}"
            if row.beyond:
                raise InputError(
                    f"{where} has {len(found.columns) + row.beyond} cells, and the header {len(found.columns)}; put "
                    "texts that hold a separator into double quotes"
                )
            yield where, row.cells

    return _Rows(found.columns, cells(), {})


def _of_parquet(table: Path) -> _Rows:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise EnvironmentProblem("reading a Parquet file needs pyarrow: pip install 'oodguard[score]'") from None
    try:
        with parquet.ParquetFile(table) as file:
            schema = file.schema_arrow
            wanted = [name for name in schema.names if not pa.types.is_nested(schema.field(name).type)]
            wanted += [name for name in schema.names if pa.types.is_list(schema.field(name).type)]
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if size > MAX_BYTES:
                raise InputError(f"{visible(str(table))} has {size:,} bytes of text; at most {MAX_BYTES:,} are read")
            rows = file.read(columns=wanted).to_pylist()
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{visible(str(table))} cannot be read as Parquet ({why}); {ADVICE}") from None
    name = visible(table.name)
    cells = ((f"row {number} of {name}", one) for number, one in enumerate(rows))
    return _Rows(tuple(schema.names), cells, class_labels(features_of(schema)))


def class_labels(features: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Sequence[str]]:
    """The class names that Hugging Face's description gives for columns of class numbers."""
    found = {column: feature.get("names") for column, feature in features.items()}
    return {column: [*map(str, names)] for column, names in found.items() if isinstance(names, list) and names}


def _part(value: Any) -> Part | None:
    return split_of(str(value)) if value is not None else None


def required_part(value: Any, where: str) -> Part:
    """The part that a cell names. Raises `InputError`, which says where, for no name of a split."""
    found = _part(value)
    if found is None:
        given = "no split" if value in (None, "") else f"the split {visible(str(value))[:40]}"
        raise InputError(f"{where} has {given}; write train, val or test")
    return found


def _path(value: Any, where: str) -> str:
    text = value.strip() if isinstance(value, str) else "" if value is None else str(value)
    if not text:
        raise InputError(f"{where} names no file; give it one, or take the row out")
    if "://" in text:
        raise InputError(f"{where} names an address, and nothing is fetched from a network; download the photos first")
    return text


def _file(folder: Path, entry: Entry) -> Path | None:
    """The file that a row names; tables that were written on Windows have backslashes between folders."""
    for text in dict.fromkeys((entry.path, entry.path.replace("\\", "/"))):
        path = folder / text
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):
            continue
    return None


def _require_files(entries: Sequence[Entry], missing: Sequence[Entry], shown: str) -> None:
    if not missing:
        return
    first = f"the first: {visible(missing[0].path)} ({missing[0].where})"
    if len(missing) == len(entries):
        raise InputError(
            f"none of the {len(entries):,} files that {shown} names is there, {first}; paths begin at the folder of "
            "the table"
        )
    gone, named = Counter(entry.label for entry in missing), Counter(entry.label for entry in entries)
    for entry in missing:
        if gone[entry.label] == named[entry.label]:
            raise InputError(
                f"none of the {gone[entry.label]:,} files of {visible(entry.label)} that {shown} names is there, the "
                f"first: {visible(entry.path)} ({entry.where}); {len(missing):,} of {len(entries):,} files are missing"
            )


def _sha256(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError as error:
        raise InputError(f"{visible(str(file))} cannot be read ({error.strerror})") from None

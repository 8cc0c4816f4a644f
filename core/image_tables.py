"""Parquet files that hold images: one encoded image per row, read row by row in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from oodguard.core.codes import Code
from oodguard.core.errors import EnvironmentProblem, ImageError, InputError

# The first and the last bytes of a Parquet file.
MAGIC = b"PAR1"
# Rows are taken from the file until they have about so many bytes, and pages in blocks of so many.
HELD_BYTES = 8 * 1024 * 1024
MOST_ROWS = 256
BLOCK = 1024 * 1024
# Encoded images hardly shrink, so a column that unpacks to more than this many times its size holds none.
MAX_EXPANSION = 100
FREE_EXPANSION = 1024**3
# What the reader of Parquet keeps of a file's own description.
MAX_FOOTER = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One row: its number in the file (from 0), the encoded image, and what else was asked for.

    data: None where the cell is empty. name: what the row calls its image (the `path` beside the bytes); it is never
    opened. others: the cells of the columns in `others`, by name.
    """

    number: int
    data: bytes | None
    name: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> bytes:
        """The encoded image. Raises `ImageError` where the row has none."""
        if self.data is None:
            beside = f"; beside it stands the path {self.name}, which is not opened" if self.name else ""
            raise ImageError(Code.EMPTY, f"row {self.number} has no bytes in its image{beside}")
        if not self.data:
            raise ImageError(Code.EMPTY, f"row {self.number} has an image of 0 bytes")
        return self.data


def is_parquet(head: bytes) -> bool:
    """Whether a file begins as Parquet does."""
    return head.startswith(MAGIC)


def holds_images(path: Path, *, column: str | None = None) -> bool:
    """Whether a Parquet file has a column of images, or `column` is one. Raises as `ImageTable` does."""
    parquet = _pyarrow()
    try:
        schema = parquet.read_schema(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as Parquet ({_reason(error)})") from None
    return any(_holds_bytes(schema.field(name).type) for name in schema.names if column in (None, name))


class ImageTable:
    """A Parquet file of images.

    ```python
    with ImageTable(Path("train-00000-of-00004.parquet"), others=("label",)) as table:
        for row in table:
            print(row.number, row.name, row.others["label"], len(row.image))
    ```

    An image is a column of bytes, or a struct `{bytes, path}` as Hugging Face's data sets have it. column: which one,
    where the file has several. others: columns to read beside it.

    Memory does not grow with the file or its row groups: the reader holds one page of the column, which cannot be
    unpacked in pieces, and a few mebibytes of rows (at least one row). One thread at a time reads a table.

    Raises `InputError` for a file without such a column, or with several where `column` chooses none;
    `EnvironmentProblem` without pyarrow.
    """

    def __init__(
        self, path: Path, *, column: str | None = None, others: Sequence[str] = (), option: str = "--column"
    ) -> None:
        parquet = _pyarrow()
        self.path = path
        self._option = option
        try:
            self._file = parquet.ParquetFile(
                path, buffer_size=BLOCK, pre_buffer=False, thrift_container_size_limit=10_000_000,
                thrift_string_size_limit=MAX_FOOTER,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as Parquet ({_reason(error)})") from None
        try:
            self._schema = self._file.schema_arrow
            self.column = self._chosen(column)
            self._others = tuple(others)
            for name in self._others:
                if name not in self.columns:
                    raise InputError(f"{path} has no column {name}; it has {', '.join(self.columns)}")
            self._nested = _is_struct(self._schema.field(self.column).type)
            self._ends = self._row_groups()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ImageTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def __iter__(self) -> Iterator[ImageRow]:
        return self.rows()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return tuple(self._schema.names)

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """What Hugging Face's description in the file says of each column, such as the `names` of a `ClassLabel`."""
        return features_of(self._schema)

    def rows(self, start: int = 0) -> Iterator[ImageRow]:
        """The rows from number `start` on, in order. Raises `InputError` where the file is damaged."""
        yield from self._read(start, data=True)

    def names(self) -> Iterator[str | None]:
        """What each row calls its image, without reading the images; None for each where the file does not say."""
        if not (self._nested and "path" in _fields(self._schema.field(self.column).type)):
            yield from (None for _ in range(len(self)))
            return
        for row in self._read(0, data=False):
            yield row.name

    def _read(self, start: int, *, data: bool) -> Iterator[ImageRow]:
        number = 0
        for group, end in enumerate(self._ends):
            first, number = number, end
            if end <= start:
                continue
            at = first
            try:
                for batch in self._file.iter_batches(
                    batch_size=self._batch(group) if data else MOST_ROWS,
                    row_groups=[group],
                    columns=self._leaves(data),
                    use_threads=False,
                ):
                    skipped = min(max(start - at, 0), batch.num_rows)
                    yield from self._of(batch.slice(skipped), at + skipped, data=data)
                    at += batch.num_rows
            except (OSError, ValueError) as error:
                raise InputError(f"{self.path} is damaged in row group {group} ({_reason(error)})") from None

    def _leaves(self, data: bool) -> list[str]:
        wanted = [f"{self.column}.bytes" if self._nested else self.column] if data else []
        if self._nested and "path" in _fields(self._schema.field(self.column).type):
            wanted.append(f"{self.column}.path")
        return [*wanted, *(self._others if data else ())]

    def _of(self, batch: Any, at: int, *, data: bool) -> Iterator[ImageRow]:
        cells = batch.column(batch.schema.get_field_index(self.column))
        others = {name: batch.column(batch.schema.get_field_index(name)) for name in self._others if data}
        for index in range(batch.num_rows):
            cell = cells[index].as_py()
            found, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
            beside = {key: column[index].as_py() for key, column in others.items()}
            yield ImageRow(at + index, found, name if isinstance(name, str) else None, beside)

    def _row_groups(self) -> list[int]:
        """The number of the row behind each row group. Raises `InputError` for one that is packed like a bomb."""
        ends, end = [], 0
        for group in range(self._file.metadata.num_row_groups):
            packed, unpacked = self._bytes(group)
            if unpacked > max(FREE_EXPANSION, MAX_EXPANSION * packed):
                raise InputError(
                    f"{self.path} is not read: {packed:,} bytes would unpack to {unpacked:,} in row group {group}"
                )
            end += self._file.metadata.row_group(group).num_rows
            ends.append(end)
        return ends

    def _bytes(self, group: int) -> tuple[int, int]:
        about = self._file.metadata.row_group(group)
        mine = [about.column(index) for index in range(about.num_columns)]
        mine = [one for one in mine if f"{one.path_in_schema}.".startswith(f"{self.column}.")]
        return sum(one.total_compressed_size for one in mine), sum(one.total_uncompressed_size for one in mine)

    def _batch(self, group: int) -> int:
        """How many rows of a group have about `HELD_BYTES`."""
        mean = self._bytes(group)[1] / max(self._file.metadata.row_group(group).num_rows, 1)
        return int(min(max(HELD_BYTES // max(mean, 1), 1), MOST_ROWS))

    def _chosen(self, column: str | None) -> str:
        """The column of images. Raises `InputError`."""
        found = [name for name in self.columns if _holds_bytes(self._schema.field(name).type)]
        if column is not None:
            if column in found:
                return column
            if column in self.columns:
                raise InputError(f"{self.path}: {_unfit(column, self._schema.field(column).type)}")
            raise InputError(f"{self.path} has no column {column}; it has {', '.join(self.columns)}")
        declared = [name for name in found if self.features.get(name, {}).get("_type") == "Image"]
        for chosen in (declared, found):
            if len(chosen) == 1:
                return chosen[0]
        if found:
            names = ", ".join(declared or found)
            raise InputError(
                f"{self.path} has several columns of images ({names}); name one of them with {self._option}"
            )
        unfit = next((name for name in self.columns if _is_list_of_images(self._schema.field(name).type)), None)
        if unfit is not None:
            raise InputError(f"{self.path}: {_unfit(unfit, self._schema.field(unfit).type)}")
        raise InputError(
            f"{self.path} has no column of images (bytes, or a struct of bytes and path); it has "
            + (", ".join(f"{name} ({self._schema.field(name).type})" for name in self.columns) or "no columns")
        )


def _pyarrow() -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise EnvironmentProblem("reading a Parquet file needs pyarrow: pip install 'oodguard[score]'") from None
    return parquet


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_struct(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind))


def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(kind.field(index).name for index in range(kind.num_fields))


def _holds_bytes(kind: Any) -> bool:
    if _is_struct(kind):
        return "bytes" in _fields(kind) and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_list_of_images(kind: Any) -> bool:
    from pyarrow import types

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(lists) and _holds_bytes(kind.value_type)


def _unfit(column: str, kind: Any) -> str:
    if _is_list_of_images(kind):
        return f"column {column} holds lists of images; write the file again with one image in each row"
    return f"column {column} holds {kind}, and no images (bytes, or a struct of bytes and path)"


def features_of(schema: Any) -> Mapping[str, Mapping[str, Any]]:
    """The features that Hugging Face's data sets write into a schema; empty where that does not say."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, dict)}


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

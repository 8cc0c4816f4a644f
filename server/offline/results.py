"""The result: its columns, its rows, its metadata and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from oodguard.core import rows
from oodguard.core.curve import QuantileCurve
from oodguard.core.errors import ImageError
from oodguard.core.manifest import Manifest
from oodguard.core.rows import NAMED, P_VALUE, joined
from oodguard.core.targets import Targets
from oodguard.core.text import cell, json_line, readable
from oodguard.core.verdict import Outcome
from oodguard.server.offline.arrays import array
from oodguard.server.offline.items import Item
from oodguard.server.offline.limits import refusal

ROW_GROUP = 64 * 1024


KINDS = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "flag": pa.bool_(),
}


def columns(manifest: Manifest, *, explained: bool = False, tested: bool = False) -> pa.Schema:
    """Return the schema of the rows: path, member, and a verdict or an error (`core/rows.py`)."""
    return pa.schema(
        [
            pa.field(column.name, KINDS[column.kind], nullable=column.name != "path")
            for column in rows.columns(manifest.score_names, explained=explained, tested=tested)
        ]
    )


def table(schema: pa.Schema, items: Sequence[Item], outcomes: Sequence[Outcome]) -> pa.Table:
    """Return one row per image, in their order."""
    found = [_row(item, outcome) for item, outcome in zip(items, outcomes, strict=True)]
    return pa.Table.from_arrays([array([row.get(f.name) for row in found], f.type) for f in schema], schema=schema)


def with_discoveries(found: pa.Table, schema: pa.Schema, curve: QuantileCurve, cut: float) -> pa.Table:
    """Add to rows their p-values by the curve of the fused score, and whether these reach the cut; null of errors."""
    fused = found["ood_score"].to_pylist()
    given = [None if score is None else float(curve.p_value(score)) for score in fused]
    added: dict[str, list[float | None] | list[bool | None]] = {
        P_VALUE: given,
        NAMED: [None if p is None else p <= cut for p in given],
    }
    return pa.Table.from_arrays(
        [array(added[field.name], field.type) if field.name in added else found[field.name] for field in schema],
        schema=schema,
    )


def _row(item: Item, outcome: Outcome) -> dict[str, rows.Cell]:
    row: dict[str, rows.Cell] = {
        "path": readable(item.path),
        "member": None if item.member is None else readable(item.member),
    }
    if isinstance(outcome, ImageError):
        return row | rows.error_cells(outcome.code, readable(refusal(outcome)))
    return row | rows.verdict_cells(outcome)


def metadata(
    manifest: Manifest, *, bundle_sha256: str, targets: Targets, source: str, calibration: str | None = None
) -> dict[str, str]:
    """Return what a reader must know about how the result was made; nothing that differs between two equal runs."""
    thresholds = manifest.thresholds(targets, source=calibration)
    return {
        "oodguard.bundle.name": manifest.name,
        "oodguard.bundle.version": manifest.version,
        "oodguard.bundle.precision": manifest.precision,
        "oodguard.bundle.sha256": bundle_sha256,
        **{f"oodguard.{name}": json.dumps(value) for name, value in targets},
        "oodguard.thresholds": json.dumps({"ood_score": thresholds.fused, **dict(thresholds.scores)}),
        "oodguard.source": readable(source),
        **({} if calibration is None else {"oodguard.calibration": calibration}),
    }


class Writer(Protocol):
    """Takes tables one by one."""

    def write_table(self, table: pa.Table) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


def write_result(out: Path, schema: pa.Schema, about: dict[str, str], tables: Iterable[pa.Table]) -> None:
    """Write the result beside its place, then rename it. CSV and JSON lines get their metadata in `NAME.meta.json`."""
    scratch = out.with_name(out.name + ".partial")
    writer: Writer
    if out.suffix.lower() == ".parquet":
        writer = pa.parquet.ParquetWriter(scratch, schema.with_metadata(about), compression="zstd")
    elif out.suffix.lower() == ".csv":
        writer = _Csv(scratch, schema)
    else:
        writer = _JsonLines(scratch)
    try:
        try:
            for group in _grouped(tables):
                writer.write_table(group.replace_schema_metadata(about) if out.suffix.lower() == ".parquet" else group)
        finally:
            writer.close()
        if out.suffix.lower() != ".parquet":
            put(out.with_name(out.name + ".meta.json"), json.dumps(about, indent=1).encode())
        settle(scratch, out)
    finally:
        scratch.unlink(missing_ok=True)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables to row groups of a size that readers like; holds one group in memory."""
    held: list[pa.Table] = []
    for one in tables:
        held.append(one)
        if sum(len(part) for part in held) >= ROW_GROUP:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


class _Csv:
    """Text as `cell` writes it; pyarrow writes true and false in small letters, as JSON does."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        # A list is one cell here.
        fields = [one.with_type(pa.string()) if pa.types.is_list(one.type) else one for one in schema]
        self._writer = pa.csv.CSVWriter(str(path), pa.schema(fields))

    def write_table(self, table: pa.Table) -> None:
        for index, field in enumerate(table.schema):
            column = table.column(index)
            if pa.types.is_string(field.type):
                texts = [None if text is None else cell(text) for text in column.to_pylist()]
            elif pa.types.is_list(field.type):
                texts = [None if found is None else cell(joined(found)) for found in column.to_pylist()]
            else:
                continue
            table = table.set_column(index, field.with_type(pa.string()), array(texts, pa.string()))
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._stream = path.open("w", encoding="utf-8")

    def write_table(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._stream.write(json_line(row) + "\n")

    def close(self) -> None:
        self._stream.close()


def put(path: Path, data: bytes) -> None:
    """Write a small file so that it exists whole or not at all."""
    scratch = path.with_name(path.name + ".partial")
    scratch.write_bytes(data)
    settle(scratch, path)


def settle(scratch: Path, path: Path) -> None:
    """Give a written file its name, once its bytes have reached the disk."""
    with scratch.open("rb") as stream:
        os.fsync(stream.fileno())
    scratch.replace(path)

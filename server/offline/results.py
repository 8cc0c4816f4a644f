"""The result: its columns, its rows, its metadata and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from oodguard.core.errors import ImageError
from oodguard.core.manifest import Manifest
from oodguard.core.verdict import Outcome
from oodguard.server.offline.arrays import array
from oodguard.server.offline.items import Item, shown

ROW_GROUP = 64 * 1024


def columns(manifest: Manifest) -> pa.Schema:
    """Return the schema: path, member, verdict, every score with its flag, error; a row has a verdict or an error."""
    scores = [
        field
        for name in manifest.score_names
        for field in (pa.field(f"{name}_score", pa.float32()), pa.field(f"{name}_is_ood", pa.bool_()))
    ]
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("member", pa.string()),
            pa.field("label", pa.string()),
            pa.field("probability", pa.float32()),
            pa.field("is_ood", pa.bool_()),
            pa.field("ood_score", pa.float64()),
            pa.field("percentile", pa.float64()),
            *scores,
            pa.field("error_code", pa.string()),
            pa.field("error_message", pa.string()),
        ]
    )


def table(schema: pa.Schema, items: Sequence[Item], outcomes: Sequence[Outcome]) -> pa.Table:
    """Return one row per image, in their order."""
    rows = [_row(item, outcome) for item, outcome in zip(items, outcomes, strict=True)]
    return pa.Table.from_arrays([array([row.get(f.name) for row in rows], f.type) for f in schema], schema=schema)


def _row(item: Item, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"path": shown(item.path), "member": None if item.member is None else shown(item.member)}
    if isinstance(outcome, ImageError):
        return row | {"error_code": outcome.code, "error_message": shown(str(outcome))}
    row |= {
        "label": outcome.label,
        "probability": outcome.probability,
        "is_ood": outcome.is_ood,
        "ood_score": outcome.ood_score,
        "percentile": outcome.percentile,
    }
    for name, score in outcome.scores.items():
        row[f"{name}_score"] = score.value
        row[f"{name}_is_ood"] = score.is_ood
    return row


def metadata(manifest: Manifest, *, bundle_sha256: str, accept: float, source: str) -> dict[str, str]:
    """Return what a reader must know about how the result was made; nothing that differs between two equal runs."""
    thresholds = manifest.thresholds(accept)
    return {
        "oodguard.bundle.name": manifest.name,
        "oodguard.bundle.version": manifest.version,
        "oodguard.bundle.precision": manifest.precision,
        "oodguard.bundle.sha256": bundle_sha256,
        "oodguard.accept": repr(accept),
        "oodguard.thresholds": json.dumps({"ood_score": thresholds.fused, **dict(thresholds.scores)}),
        "oodguard.source": shown(source),
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
        writer = pa.csv.CSVWriter(str(scratch), schema)
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


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._stream = path.open("w", encoding="utf-8")

    def write_table(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")

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

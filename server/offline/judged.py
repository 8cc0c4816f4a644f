"""Reads back what `oodguard score` or `oodguard predict --csv` wrote: the columns that drift is read from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from oodguard.core.errors import InputError
from oodguard.server.offline.options import OUT_SUFFIXES

NEEDED = ("path", "label", "probability", "is_ood", "ood_score", "threshold", "error_code")
MEMBER = "member"
META_SUFFIX = ".meta.json"
DAY = re.compile(r"(?<!\d)(20\d\d)([-_./]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d{3})")
TEXTS = ("path", MEMBER, "label", "error_code")
# What stands in front of a text that a spreadsheet would take for a formula.
GUARD = "'"

Texts = npt.NDArray[np.str_]


@dataclass(frozen=True)
class JudgedImages:
    """N images that have a verdict, and how many have none; `weeks` are empty where nothing says when.

    about: the metadata of the file; none of a table that says nothing of itself.
    """

    labels: Texts
    chances: npt.NDArray[np.float64]
    fused: npt.NDArray[np.float64]
    flags: npt.NDArray[np.bool_]
    weeks: Texts
    thresholds: frozenset[float]
    failed: int
    about: dict[str, str]

    def __len__(self) -> int:
        return len(self.labels)


def read_judged(path: Path, *, times: str | None = None) -> JudgedImages:
    """The images of a result: .parquet, .csv or .jsonl.

    times: the column that says when each image was taken, as date, timestamp or seconds since 1970; None: a date in
    its path. Raises `InputError` in one sentence for anything else than a result.
    """
    if path.suffix.lower() not in OUT_SUFFIXES:
        raise InputError(f"{path} is not a result: its name must end in {', '.join(OUT_SUFFIXES)}")
    parts: list[JudgedImages] = []
    try:
        about, tables = _opened(path, times)
        parts.extend(_images(table, times, about) for table in tables)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a result of oodguard score ({reason[:200]})") from None
    if not sum(map(len, parts)):
        raise InputError(f"{path} holds no image with a verdict")
    return joined_images(parts)


def joined_images(parts: Sequence[JudgedImages]) -> JudgedImages:
    """Several parts as one; `about` is that of the first."""
    return JudgedImages(
        labels=np.concatenate([part.labels for part in parts]),
        chances=np.concatenate([part.chances for part in parts]),
        fused=np.concatenate([part.fused for part in parts]),
        flags=np.concatenate([part.flags for part in parts]),
        weeks=np.concatenate([part.weeks for part in parts]),
        thresholds=frozenset().union(*(part.thresholds for part in parts)),
        failed=sum(part.failed for part in parts),
        about=parts[0].about,
    )


def _opened(path: Path, times: str | None) -> tuple[dict[str, str], Iterator[pa.Table]]:
    """The metadata and the tables of a file. Of a Parquet file a row group is in memory at a time."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        stored = pa.parquet.ParquetFile(path)
        found = {
            k.decode(): v.decode() for k, v in (stored.schema_arrow.metadata or {}).items() if k != b"ARROW:schema"
        }
        columns = _wanted(stored.schema_arrow.names, times)
        groups = range(stored.num_row_groups)
        return found, (stored.read_row_group(group, columns=columns) for group in groups)
    beside = path.with_name(path.name + META_SUFFIX)
    about = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    if not isinstance(about, dict):
        raise ValueError(f"{beside.name} is not an object")
    if suffix == ".csv":
        typed = {**dict.fromkeys(TEXTS, pa.string()), "is_ood": pa.bool_()}
        for name in ("probability", "ood_score", "threshold"):
            typed[name] = pa.float64()
        options = pa.csv.ConvertOptions(column_types=typed, strings_can_be_null=True)
        table = pa.csv.read_csv(path, convert_options=options)
    else:
        table = pa.json.read_json(path)
    return about, iter([table.select(_wanted(table.column_names, times))])


def _wanted(names: Sequence[str], times: str | None) -> list[str]:
    """The columns to read. Raises `KeyError` where one is missing."""
    for name in (*NEEDED, *([times] if times else [])):
        if name not in names:
            raise KeyError(f"there is no column {name}")
    return list(dict.fromkeys([*NEEDED, *([MEMBER] if MEMBER in names else []), *([times] if times else [])]))


def _images(table: pa.Table, times: str | None, about: dict[str, str]) -> JudgedImages:
    good = table.filter(pa.compute.is_valid(table["ood_score"]))
    labels = [_unguarded(text) for text in good["label"].to_pylist()]
    return JudgedImages(
        labels=np.array(labels, dtype=np.str_),
        chances=np.array(good["probability"].to_pylist(), dtype=np.float64),
        fused=np.array(good["ood_score"].to_pylist(), dtype=np.float64),
        flags=np.array(good["is_ood"].to_pylist(), dtype=np.bool_),
        weeks=np.array(_weeks(good, times), dtype=np.str_),
        thresholds=frozenset(pa.compute.unique(good["threshold"]).to_pylist()),
        failed=table.num_rows - good.num_rows,
        about=about,
    )


def _unguarded(text: str) -> str:
    return text[1:] if text[:1] == GUARD and text[1:2] in ("=", "+", "-", "@", GUARD) else text


def _weeks(table: pa.Table, times: str | None) -> list[str]:
    if times is not None:
        return [_week(_day(value)) for value in table[times].to_pylist()]
    paths = table["path"].to_pylist()
    members = table[MEMBER].to_pylist() if MEMBER in table.column_names else [None] * len(paths)
    return [_week(_day_in(f"{path}/{member or ''}")) for path, member in zip(paths, members, strict=True)]


def _week(day: date | None) -> str:
    """A week as ISO 8601 writes it: `2026-W48`."""
    if day is None:
        return ""
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02d}"


def _day_in(path: str) -> date | None:
    """The last date in a path, such as 2026-11-28, 20261128 or 2026/11/28."""
    for year, _, month, day in reversed(DAY.findall(path)):
        try:
            return date(int(year), int(month), int(day))
        except ValueError:
            continue
    return None


def _day(value: object) -> date | None:
    """The day of a cell; None of an empty one. Raises `ValueError` for what is no time."""
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC).date()
    return datetime.fromisoformat(str(value)).date()

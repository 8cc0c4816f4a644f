#!/usr/bin/env bash
# Parquet keeps min and max without NaN. Two engines that skip row groups by them lose NaN rows, or keep too many.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pyarrow==26.0.1 duckdb==2.0.1 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

for name in ("pyarrow", "duckdb"):
    print(name, md.version(name))

table = pa.table({"score": [1.0, float("nan"), 3.0]})
score = pc.field("score")


def texts(column):
    return [str(value) for value in column]


seen = {}
for rows in (3, 1):  # the same three rows in one row group, and in three
    pq.write_table(table, "scores.parquet", row_group_size=rows)
    seen[rows] = texts(pq.read_table("scores.parquet", filters=~(score <= 10.0))["score"].to_pylist())
print("pyarrow, not (score <= 10): table", texts(table.filter(~(score <= 10.0))["score"].to_pylist()), "file, by rows a group", seen)
assert texts(table.filter(~(score <= 10.0))["score"].to_pylist()) == ["nan"]
assert seen == {3: [], 1: ["nan"]}

# is_nan itself is pruned where the other values of a group are all equal.
pq.write_table(pa.table({"score": [2.0, float("nan"), 2.0]}), "equal.parquet")
found = pq.read_table("equal.parquet", filters=pc.is_nan(score)).num_rows
print("pyarrow, is_nan in the file [2, nan, 2]:", found, "rows")
assert found == 0

pq.write_table(table, "scores.parquet")
duckdb.sql("create table held as select * from 'scores.parquet'")
for where, in_table, in_file in (
    ("isnan(score)", ["nan"], []),
    ("score > 10", ["nan"], []),  # DuckDB orders NaN above all numbers
    ("score <= 10", ["1.0", "3.0"], ["1.0", "nan", "3.0"]),
):
    seen = [texts(row[0] for row in duckdb.sql(f"select score from {source} where {where}").fetchall()) for source in ("held", "'scores.parquet'")]
    print(f"duckdb, {where}: table {seen[0]} file {seen[1]}")
    assert seen == [in_table, in_file]
PY

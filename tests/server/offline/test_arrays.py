"""Python values become the arrays that pyarrow itself would make of them, without pandas."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest

from oodguard.server.offline.arrays import array


@pytest.mark.parametrize("nulls", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", [pa.string(), pa.bool_(), pa.float32(), pa.float64()], ids=str)
def test_arrays_are_those_of_pyarrow(kind: pa.DataType, nulls: float) -> None:
    rng = random.Random(0)
    draw: dict[Any, Any] = {pa.string(): lambda: "é" * rng.randrange(4), pa.bool_(): lambda: rng.random() < 0.5}
    for count in (0, 1, 7, 8, 9, 100):
        values = [None if rng.random() < nulls else draw.get(kind, rng.random)() for _ in range(count)]
        made = array(values, kind)
        made.validate(full=True)
        assert made.equals(pa.array(values, kind))


def test_pandas_is_left_alone() -> None:
    program = (
        "import sys, pyarrow as pa; from oodguard.server.offline.arrays import array;"
        "[array([None], k) for k in (pa.string(), pa.bool_(), pa.float32())]; sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0

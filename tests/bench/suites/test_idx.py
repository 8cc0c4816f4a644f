from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from oodguard.bench.suites.idx import read_idx
from oodguard.core.errors import InputError


def write(path: Path, array: np.ndarray) -> Path:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))
    return path


def test_an_array_comes_back(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(read_idx(write(tmp_path / "a.gz", array)), array)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no gzip", "cannot be read"),
        (gzip.compress(b"\0\0"), "cannot be read"),
        (gzip.compress(struct.pack(">HBBI", 0, 13, 1, 1) + bytes(4)), "is not an IDX file of bytes"),
        (gzip.compress(struct.pack(">HBBI", 0, 8, 1, 9) + bytes(4)), "holds 4 bytes where its header says 9"),
        (gzip.compress(struct.pack(">HBBI", 0, 8, 1, 4) + bytes(5)), "holds 5 bytes where its header says 4"),
        (gzip.compress(struct.pack(">HBB2I", 0, 8, 2, 1 << 20, 1 << 20)), "at most 1,073,741,824 are read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.gz").write_bytes(data)
    with pytest.raises(InputError, match=reason):
        read_idx(tmp_path / "a.gz")

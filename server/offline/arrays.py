"""Turns Python values into Arrow arrays; None becomes null.

pyarrow's own conversion first imports pandas where that is installed, which takes as long as scoring a hundred images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return an array of strings, of lists of strings, of booleans or of floats.

    ```python
    array(["a", None], pa.string())
    ```
    """
    present = np.array([value is not None for value in values], dtype=bool)
    if pa.types.is_list(kind):
        inner = array([one for value in values for one in value or ()], kind.value_type)
        ends = np.cumsum([0, *(len(value or ()) for value in values)], dtype=np.int32)
        buffers = [None if present.all() else _bits(present), pa.py_buffer(ends)]
        return pa.Array.from_buffers(kind, len(values), buffers, children=[inner])
    if pa.types.is_string(kind):
        texts = [b"" if value is None else value.encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        if ends[-1] > np.iinfo(np.int32).max:
            raise ValueError("the strings of a part take more than 2 GiB")
        data = [pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(texts))]
    elif pa.types.is_boolean(kind):
        data = [_bits(np.array([bool(value) for value in values], dtype=bool))]
    else:
        numbers = [0.0 if value is None else value for value in values]
        data = [pa.py_buffer(np.array(numbers, dtype=kind.to_pandas_dtype()))]
    return pa.Array.from_buffers(kind, len(values), [None if present.all() else _bits(present), *data])


def _bits(flags: npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))

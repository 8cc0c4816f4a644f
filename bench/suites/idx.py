"""Images and labels in the IDX format of MNIST and its successors, gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oodguard.core.errors import InputError

_UINT8 = 8
MOST_BYTES = 1 << 30


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array of a gzipped IDX file of bytes. Raises `InputError` for any other file."""
    try:
        with gzip.open(path, "rb") as stream:
            nothing, kind, dimensions = struct.unpack(">HBB", stream.read(4))
            if nothing != 0 or kind != _UINT8:
                raise InputError(f"{path} is not an IDX file of bytes")
            shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
            size = math.prod(shape)
            if size > MOST_BYTES:
                raise InputError(f"{path} holds {size:,} bytes; at most {MOST_BYTES:,} are read")
            data = stream.read(size + 1)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    if len(data) != size:
        raise InputError(f"{path} holds {len(data):,} bytes where its header says {size:,}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)

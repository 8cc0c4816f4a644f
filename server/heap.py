"""Memory that decoded pictures took goes back to the system at once."""

from __future__ import annotations

import ctypes

# Of glibc: blocks of at least so many bytes are mapped, and so given back when they are freed.
_M_MMAP_THRESHOLD = -3
# A picture of 2 megapixels lies below: mapping it anew each time would cost a fifth of its decoding.
MAPPED_BYTES = 8 * 1024 * 1024


def map_large_blocks() -> bool:
    """Have the process map its large blocks; False where the C library has no such switch.

    By itself glibc raises the threshold to 32 MiB once such a block was freed, and keeps what lies below.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES))

"""Which option of `score` and `recalibrate` lets in what a limit refuses."""

from __future__ import annotations

from collections.abc import Mapping

from oodguard.core.codes import Code
from oodguard.core.errors import ImageError

LIMIT_FLAGS: Mapping[Code, str] = {
    Code.TOO_MANY_BYTES: "--max-image-bytes",
    Code.TOO_MANY_PIXELS: "--max-pixels",
    Code.TOO_MUCH_WORK: "--max-decode-work",
}


def refusal(error: ImageError) -> str:
    """Why an image has no row of scores, and the option to raise where a limit is the reason."""
    flag = LIMIT_FLAGS.get(error.code)
    return f"{error}; to use it, raise {flag}" if flag else str(error)

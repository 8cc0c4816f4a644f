"""Numbers as callers write them in headers and queries: ASCII alone, and never so long that reading them costs."""

from __future__ import annotations

import re

# Python's own readers take digits of every script, underscores and spaces, and refuse what has too many digits.
WHOLE = re.compile(r"[0-9]{1,18}")
DECIMAL = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")


def whole(text: str) -> int | None:
    """A whole number of at least 0; None for anything else."""
    return int(text) if WHOLE.fullmatch(text) else None


def decimal(text: str) -> float | None:
    """A number, with or without a fraction and an exponent; None for anything else."""
    return float(text) if DECIMAL.fullmatch(text) else None

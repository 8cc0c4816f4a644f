"""Kinds of suspects: THE list of what a check finds wrong with photos."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What is wrong with a photo, in the order of the list."""

    LABEL = "label"
    COPY_ACROSS = "copy-across"
    COPY = "copy"
    NEAR_COPY = "near-copy"
    UNREADABLE = "unreadable"
    PASSED_OVER = "passed-over"
    BLANK = "blank"
    SIZE = "size"
    SHAPE = "shape"
    DARK = "dark"
    BRIGHT = "bright"
    BLURRED = "blurred"


# What `train --exclude` leaves out where nobody names kinds: not what production may send as well.
EXCLUDED = (Kind.LABEL, Kind.COPY_ACROSS, Kind.COPY, Kind.NEAR_COPY, Kind.UNREADABLE)
# The kind of a photo whose row names none.
LISTED = "listed"


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Kinds by name, separated by commas. Raises `ValueError` for another name."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in set(Kind):
            raise ValueError(f"{name!r} is no kind of suspect; the kinds are {', '.join(Kind)}")
    return tuple(Kind(name) for name in names)

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


COPIES = (Kind.COPY_ACROSS, Kind.COPY, Kind.NEAR_COPY)
# Several kinds by one name.
SEVERAL = {"copies": COPIES, "any": tuple(Kind)}
# What `train --exclude` leaves out where nobody names kinds: what is certain, and not what production may send as well.
# Labels are suspected by a model that is sometimes wrong, most often about the photos that are worth the most.
EXCLUDED = (*COPIES, Kind.UNREADABLE)
# The kind of a photo whose row names none.
LISTED = "listed"


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Kinds by name, separated by commas; `copies` and `any` stand for several. Raises `ValueError` for others."""
    found: dict[Kind, None] = {}
    for name in (part.strip() for part in text.split(",")):
        if name in SEVERAL:
            found.update(dict.fromkeys(SEVERAL[name]))
        elif name in set(Kind):
            found[Kind(name)] = None
        elif name:
            raise ValueError(f"{name!r} is no kind of suspect; the kinds are {', '.join((*Kind, *SEVERAL))}")
    return tuple(found)

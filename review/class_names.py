"""Names of classes that may become folders of photos."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from oodguard.core.errors import InputError
from oodguard.core.photo_folders import LITTER, SPLITS, is_like_split
from oodguard.core.text import visible

MAX_CHARACTERS = 80
# What Windows takes for devices, whatever comes after a dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_SEPARATORS = re.compile(r'[/\\:*?"<>|]')


def require_class_name(name: str) -> str:
    """The name in NFC and without spaces around it. Raises `InputError` for one that cannot name a folder."""
    found = unicodedata.normalize("NFC", name.strip())
    shown = visible(found[:MAX_CHARACTERS])
    if not found:
        raise InputError("a class needs a name; type one")
    if len(found) > MAX_CHARACTERS:
        raise InputError(f"the class {shown}... has more than {MAX_CHARACTERS} characters; shorten it")
    if _SEPARATORS.search(found):
        raise InputError(f'the class {shown} has one of / \\ : * ? " < > | in its name; leave it out')
    if shown != found:
        raise InputError(f"the class {shown} has characters that cannot be seen; leave them out")
    if found.startswith(".") or found.endswith(".") or found.upper().startswith(LITTER):
        raise InputError(f"the class {shown} would be a hidden folder, or one that training passes over; rename it")
    if is_like_split(found):
        raise InputError(f"{shown} is named like a split of photos ({', '.join(SPLITS)}), not of a class; rename it")
    if _DEVICE.fullmatch(found):
        raise InputError(f"{shown} is the name of a device on Windows, where no folder may have it; rename it")
    return found


def require_new(name: str, classes: Iterable[str]) -> str:
    """A name for a class that is not there yet. Raises `InputError` for one that is, in capital letters or not."""
    found = require_class_name(name)
    for label in classes:
        if label.casefold() == found.casefold():
            raise InputError(f"there is a class {visible(label)} already; mark these as known: {visible(label)}")
    return found

"""Files that name classes in their order: a text file, a JSON list, or an id2label of numbers to names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oodguard.core.errors import InputError

MAX_FILE_BYTES = 16 << 20


def read_names(path: Path) -> list[str]:
    """Class names in order: one a line, a JSON list, or an id2label of numbers to names. Raises `InputError`."""
    text = short_text(path)
    try:
        said = json.loads(text)
    except ValueError:
        # Not JSON, so lines; those of one name a line may hold anything.
        said = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(said, dict):
        said = said.get("id2label", said.get("label_names", said.get("names", said)))
    names = names_in_order(said)
    if names is None:
        raise InputError(f"{path} does not name classes: give one a line, a JSON list, or an id2label of 0, 1, 2, ...")
    return names


def names_in_order(said: Any) -> list[str] | None:
    """Names in order, of a list or of a table from (or to) the numbers 0, 1, 2, ..."""
    if isinstance(said, dict):
        if all(isinstance(value, int) and not isinstance(value, bool) for value in said.values()):
            said = {place: name for name, place in said.items()}
        try:
            table = {int(place): name for place, name in said.items()}
        except (TypeError, ValueError):
            return None
        if sorted(table) != list(range(len(said))):
            return None
        said = [table[place] for place in range(len(table))]
    if not isinstance(said, list | tuple) or not said:
        return None
    names = [str(name).strip() for name in said]
    return names if all(isinstance(name, str | int) for name in said) and all(names) else None


def short_text(path: Path) -> str:
    """The text of a file that names classes. Raises `InputError` for one that is too long, or no text."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path} has more than {MAX_FILE_BYTES:,} bytes: it is no list of classes")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8") from None

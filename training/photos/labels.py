"""The label of one photo, from whatever a table or a shard holds for it."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from oodguard.core.errors import InputError
from oodguard.core.text import visible

# What stands between the labels of a photo that has several.
_BETWEEN = "|;"
_SHOWN = 60


@dataclass
class LabelReader:
    """Labels as text. names: of the classes, by their number, where labels are numbers. strict: whether a label that is
    text must be among them. texts: the labels that were text, each with where it stood first.

    ```python
    LabelReader(("apple", "pear")).read(1, where="row 7 of fruit.parquet")  # "pear"
    ```
    """

    names: Sequence[str] | None = None
    strict: bool = False
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        repeated = [name for name, count in Counter(self.names or ()).items() if count > 1]
        if repeated:
            raise InputError(f"two of the class names are {visible(repeated[0])}; give each class a name of its own")

    def read(self, value: Any, *, where: str) -> str:
        """The label that a cell holds. Raises `InputError`, which says where, for none and for several."""
        several = _several(value)
        if several is not None:
            if len(several) > 1:
                raise more_than_one(map(str, several), where=where)
            value = several[0] if several else None
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        if isinstance(value, str):
            return self._text(value.strip(), where)
        if value is None or value != value:  # NaN
            raise _missing(where)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int | float) and value == int(value):
            return self._number(int(value), where)
        raise InputError(f"{where} has the label {visible(str(value))[:_SHOWN]}, which is no name and no whole number")

    def require_single(self) -> None:
        """Raise `InputError` for the first label that lists other labels with commas between, such as `cat, dog`."""
        for label, where in self.texts.items():
            parts = [part.strip() for part in label.split(",")]
            if len(parts) > 1 and self.texts.keys() >= set(parts):
                raise more_than_one(parts, where=where)

    def _text(self, text: str, where: str) -> str:
        if not text:
            raise _missing(where)
        for sign in _BETWEEN:
            parts = [part.strip() for part in text.split(sign) if part.strip()]
            if len(parts) > 1:
                raise more_than_one(parts, where=where)
        if self.names is not None and text in self.names:
            return text
        if self.names is not None and text.removeprefix("-").isdecimal():
            return self._number(int(text), where)
        if not self.strict:
            self.texts.setdefault(text, where)
            return text
        raise InputError(f"{where} has the label {visible(text)[:_SHOWN]}, which is not among the class names given")

    def _number(self, number: int, where: str) -> str:
        if self.names is None:
            return str(number)
        if number < 0:
            raise _missing(where)
        if number >= len(self.names):
            raise InputError(f"{where} has the label {number}, and there are {len(self.names)} class names (0, 1, ...)")
        return self.names[number]


def more_than_one(labels: Iterable[str], *, where: str) -> InputError:
    """What is wrong with a photo that has several labels."""
    listed = ", ".join(visible(label) for label in labels)
    listed = listed if len(listed) <= _SHOWN else f"{listed[:_SHOWN]}..."
    return InputError(f"{where} has several labels ({listed}), and a classifier gives one; leave one label in each row")


def _missing(where: str) -> InputError:
    return InputError(f"{where} has no label; give it one, or take it out")


def _several(value: Any) -> Sequence[Any] | None:
    """The entries of a list, also of one that is written as text; None for anything else."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "(") and value.strip()[-1:] in ("]", ")"):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value.strip())
                break
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return list(value) if isinstance(value, list | tuple | set) else None

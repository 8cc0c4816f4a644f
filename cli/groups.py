"""How the help of a command groups its options: everyday ones first, and then group by group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count

from cyclopts import Group, Parameter
from pydantic import BaseModel
from pydantic.fields import FieldInfo

OTHER = "Other options"
_PLACES = count(1)


def group(title: str) -> Group:
    """A group of options for the help, behind those that were made before."""
    return Group(title, sort_key=next(_PLACES))


def grouped(model: type[BaseModel], everyday: Iterable[str], groups: Mapping[str, Iterable[str]]) -> None:
    """Divide the options that a model's fields are: `everyday` ones stay in front, the others go into their group.

    cyclopts reads the mark; pydantic ignores it. A field that nobody names goes to the end. Raises `KeyError` for a
    name that is no field.
    """
    fields = dict(model.model_fields)
    for name in everyday:
        field = fields.pop(name)
        field.metadata = [one for one in field.metadata if not isinstance(one, Parameter)]
    for title, names in groups.items():
        here = group(title)
        for name in names:
            _mark(fields.pop(name), here)
    rest = Group(OTHER, sort_key=80)
    for field in fields.values():
        _mark(field, rest)


def _mark(field: FieldInfo, here: Group) -> None:
    # A new list: models share the list of a field that one took over from another.
    kept = [one for one in field.metadata if not isinstance(one, Parameter)]
    field.metadata = [*kept, Parameter(group=here)]

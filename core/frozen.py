"""The base of every record that crosses a room, and what is wrong with one in words."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Frozen(BaseModel):
    """Base of every record: immutable; an undeclared field is an error. Equal are records with equal fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __eq__(self, other: object) -> bool:
        # What a record has computed and kept (`cached_property`) may be an array, which has no truth value.
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in type(self).model_fields)


def first_fault(error: ValidationError, *, whole: str) -> str:
    """The first thing that is wrong with a record, as "where: what"; `whole` is where the record itself is at fault.

    What stood there is not repeated: it may be long, and somebody else's.
    """
    first = error.errors(include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:80] or whole}: {first['msg'][:200]}"

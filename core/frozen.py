"""The base of every record that crosses a room, and what is wrong with one in words."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Frozen(BaseModel):
    """Base of every record: immutable; an undeclared field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __eq__(self, other: object) -> bool:
        # By the fields alone: pydantic also compares what was derived from them and cached, which arrays refuse.
        return type(other) is type(self) and all(
            getattr(self, name) == getattr(other, name) for name in type(self).model_fields
        )


def first_fault(error: ValidationError, *, whole: str) -> str:
    """The first thing that is wrong with a record, as "where: what"; `whole` is where the record itself is at fault.

    What stood there is not repeated: it may be long, and somebody else's.
    """
    first = error.errors(include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:80] or whole}: {first['msg'][:200]}"

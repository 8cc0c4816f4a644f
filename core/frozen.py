"""The base of every record that crosses a stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of every record: immutable; an undeclared field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

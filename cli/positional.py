"""Which options of a model a command also takes by position."""

from __future__ import annotations

from pydantic import BaseModel


def positional(model: type[BaseModel], *names: str) -> None:
    """Let the command line give only these fields of `model` by position; all others need their option's name.

    cyclopts reads the mark; pydantic ignores it for everything but dataclasses.
    """
    for name, field in model.model_fields.items():
        field.kw_only = name not in names

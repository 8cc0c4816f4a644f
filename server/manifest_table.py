"""The fields of a bundle's manifest as a table (`tables` writes it)."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from oodguard.core.manifest import Manifest


def manifest_table() -> str:
    """Every field of the manifest as a Markdown table, with the fields of the records inside it."""
    rows = ["| field | what it is | fields of each |", "|---|---|---|"]
    for name, field in Manifest.model_fields.items():
        inside = _record(field.annotation)
        fields = ", ".join(f"`{part}`" for part in inside.model_fields) if inside else ""
        rows.append(f"| `{name}` | {field.description} | {fields} |")
    return "\n".join(rows)


def _record(annotation: Any) -> type[BaseModel] | None:
    """The record that a field holds, alone or in a list."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None

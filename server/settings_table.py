"""The settings as a table (`tables` writes it)."""

from __future__ import annotations

from oodguard.server.settings import ServeSettings
from oodguard.server.settings_rules import ENV_PREFIX


def settings_table() -> str:
    """Every setting as a Markdown table."""
    rows = ["| flag | environment | default | what it does |", "|---|---|---|---|"]
    for name, field in ServeSettings.model_fields.items():
        flag = name.replace("_", "-")
        default = "required" if field.is_required() else "" if field.default in (None, ()) else f"`{field.default}`"
        rows.append(f"| `--{flag}` | `{ENV_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)

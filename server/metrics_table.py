"""The metrics as a table (`tables` writes it)."""

from __future__ import annotations

from oodguard.server.metrics import Metrics


def metrics_table() -> str:
    """Every metric as a Markdown table, in the order in which they are exported."""
    metrics = Metrics()
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for family in metrics.registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        shown = ", ".join(f"`{name}`" for name in metrics.labels.get(family.name, ()))
        rows.append(f"| `{family.name}{suffix}` | {family.type} | {shown} | {family.documentation} |")
    return "\n".join(rows)

"""The metrics as a table (`tables` writes it)."""

from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase

from oodguard.server.metrics import Metrics


def metrics_table() -> str:
    """Every metric as a Markdown table, in the order in which they are exported."""
    metrics = Metrics()
    # The library keeps label names to itself, but a table without them says little.
    labels = {
        next(iter(wrapper.describe())).name: wrapper._labelnames
        for wrapper in vars(metrics).values()
        if isinstance(wrapper, MetricWrapperBase)
    }
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for family in metrics.registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        names = labels.get(family.name, getattr(family, "_labelnames", ()))
        shown = ", ".join(f"`{name}`" for name in names)
        rows.append(f"| `{family.name}{suffix}` | {family.type} | {shown} | {family.documentation} |")
    return "\n".join(rows)

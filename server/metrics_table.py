"""The metrics as a table: `python -m oodguard.server.metrics_table docs/METRICS.md` writes it there."""

from __future__ import annotations

import sys
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from oodguard.server.metrics import Metrics

BEGIN, END = "<!-- metrics -->", "<!-- /metrics -->"


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


def main(document: Path) -> None:
    """Replace what stands between the two marks."""
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n{metrics_table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

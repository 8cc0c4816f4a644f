"""The settings as a table in the README: `python -m oodguard.server.settings_table README.md` writes it there."""

from __future__ import annotations

import sys
from pathlib import Path

from oodguard.server.settings import ENV_PREFIX, ServeSettings

BEGIN, END = "<!-- settings -->", "<!-- /settings -->"


def settings_table() -> str:
    """Every setting as a Markdown table, for the README."""
    rows = ["| flag | environment | default | what it does |", "|---|---|---|---|"]
    for name, field in ServeSettings.model_fields.items():
        flag = name.replace("_", "-")
        default = "required" if field.is_required() else "" if field.default in (None, ()) else f"`{field.default}`"
        rows.append(f"| `--{flag}` | `{ENV_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def main(readme: Path) -> None:
    """Replace what stands between the two marks."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{settings_table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

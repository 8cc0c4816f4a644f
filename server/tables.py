"""Tables of the documents that are made from the code: `python -m oodguard.server.tables docs/*.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from oodguard.core.problems import PROBLEMS
from oodguard.core.scores import SCORES
from oodguard.server.manifest_table import manifest_table
from oodguard.server.metrics_table import metrics_table
from oodguard.server.settings_table import settings_table


def problems_table() -> str:
    """Every problem code as a Markdown table, by status."""
    rows = ["| status | code | title |", "|---|---|---|"]
    rows += [f"| {status} | `{code}` | {title} |" for code, (status, title) in sorted(PROBLEMS.items(), key=_by_status)]
    return "\n".join(rows)


def scores_table() -> str:
    """Every OOD score as a Markdown table, in graph order."""
    rows = ["| score | family | title | what it measures |", "|---|---|---|---|"]
    rows += [f"| `{spec.name}` | {spec.family} | {spec.title} | {spec.meaning} |" for spec in SCORES]
    return "\n".join(rows)


def _by_status(entry: tuple[str, tuple[int, str]]) -> tuple[int, str]:
    code, (status, _) = entry
    return status, code


TABLES = {
    "settings": settings_table,
    "metrics": metrics_table,
    "problems": problems_table,
    "scores": scores_table,
    "manifest": manifest_table,
}


def filled(text: str) -> str:
    """A document with what stands between `<!-- name -->` and `<!-- /name -->` made anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin in text:
            before, _, rest = text.partition(begin)
            text = f"{before}{begin}{table()}\n{end}{rest.partition(end)[2]}"
    return text


def main(documents: list[Path]) -> None:
    """Fill the documents in place."""
    for document in documents:
        document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])

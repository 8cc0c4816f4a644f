"""What a comparison leaves for people: Markdown and HTML."""

from __future__ import annotations

from pathlib import Path

from oodguard.bench.report import to_html
from oodguard.bench.results import HTML_FILE, MARKDOWN_FILE, RESULTS_FILE, Results
from oodguard.bench.table import to_markdown
from oodguard.core.errors import EnvironmentProblem
from oodguard.pages.text import plain


def write_outcome(results: Results, out: Path) -> tuple[Path, ...]:
    """Write `results.md` and `report.html` beside `results.json`. Returns all files; raises `EnvironmentProblem`."""
    try:
        (out / MARKDOWN_FILE).write_text(plain(to_markdown(results)), encoding="utf-8")
        (out / HTML_FILE).write_text(to_html(results, out), encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(f"{out} cannot be written ({error.strerror})") from None
    return out / RESULTS_FILE, out / MARKDOWN_FILE, out / HTML_FILE

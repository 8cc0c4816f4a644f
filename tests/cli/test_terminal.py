"""Whatever a command prints, text from outside acts on nothing."""

from __future__ import annotations

import io
import logging

import pytest
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from oodguard.cli.progress import TerminalReporter
from oodguard.cli.terminal import Terminal
from oodguard.server import logs

NAME = "a\x1b]0;title\x07\r\x9bb:cat:[red]"
SHOWN = r"a\x1b]0;title\x07\x0d\x9bb:cat:[red]"


@pytest.mark.parametrize("form", ["line", "cell", "text", "markdown"])
def test_every_form_of_output_shows_escapes(form: str) -> None:
    stream = io.StringIO()
    console = Terminal(file=stream, width=200)
    match form:
        case "line":
            console.print(f"[bold]{escape(NAME)}[/]", highlight=False)
        case "cell":
            table = Table("name")
            table.add_row(escape(NAME))
            console.print(table)
        case "text":
            console.print(Text(NAME.replace("\r", "\x0e").replace("\x07", "\x0f")))
        case "markdown":
            console.print(Markdown(f"# {NAME}"))
    written = stream.getvalue()
    assert set(written).isdisjoint({"\x1b", "\x07", "\r", "\x9b", "\x0e", "\x0f"})
    assert ":cat:[red]" in written
    assert (SHOWN in written) == (form in ("line", "cell"))


def test_colours_still_reach_a_terminal() -> None:
    stream = io.StringIO()
    Terminal(file=stream, width=200, force_terminal=True, color_system="standard").print(
        "[red]no[/] \x1b[32m", highlight=False
    )
    assert stream.getvalue() == "\x1b[31mno\x1b[0m \\x1b[32m\n"


def test_notes_and_stages_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalReporter() as report:
        report.note("left out [/red] and [bold]")
        report.progress("[/x] stage", 1, 2)
    shown = capsys.readouterr().err
    assert "left out [/red] and [bold]" in shown
    assert "[/x] stage" in shown


def test_a_message_of_the_text_log_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.configure(level="warning", style="text")
        logs.server.warning("bundle %s", "a\nERROR forged\x1b[2J")
    finally:
        root.handlers[:], root.level = before
    assert capsys.readouterr().err.endswith(" WARNING oodguard.server: bundle a\\x0aERROR forged\\x1b[2J\n")

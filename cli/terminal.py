"""The terminal: a console that shows text from outside as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from oodguard.core.text import visible


class Terminal(Console):
    """A console on which names of files and classes cannot act on the terminal: see `visible`.

    Pass such names through `rich.markup.escape`, or print with `markup=False`; everything else is done here.
    """

    def __init__(self, **options: Any) -> None:
        # A class may be called :cat:.
        super().__init__(**{"emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Before rich measures the text: it drops some control characters and keeps others."""
        return super().render_str(visible(text, keep="\n\t"), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What did not come as a string, such as Markdown."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text, keep="\n\t"), segment.style)

"""Progress on the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from oodguard.cli.terminal import Terminal


class Bars:
    """The progress of a long command: stage, bar, count and total, time so far, then the columns in `more`."""

    def __init__(self, *more: ProgressColumn, width: int | None = None) -> None:
        self.console = Terminal(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}" if width is None else f"{{task.description:{width}}}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            *more,
            console=self.console,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


class TerminalReporter(Bars):
    """A `Reporter` that draws one bar per stage.

    ```python
    with TerminalReporter() as report:
        train(options, out, report=report)
    ```
    """

    def __init__(self) -> None:
        super().__init__(width=32)
        self._tasks: dict[str, TaskID] = {}

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, highlight=False, markup=False)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Move the bar of a stage. Stages that differ only in the text in parentheses share one bar."""
        key = stage.split(" (")[0]
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[key], description=stage, completed=done, total=total)

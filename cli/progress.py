"""How long commands tell what they are doing: bars on a terminal, lines elsewhere, JSON, or nothing."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from oodguard.cli.output import Output, choose_form, json_record, writes_json
from oodguard.cli.terminal import Terminal

EVERY = 60.0


class Showing(Protocol):
    """A `Reporter` that is open for as long as the work takes. A stage's total of 0 says that it is not known yet."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def note(self, text: str) -> None:
        """Show one line."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a stage are done."""


def reporter(output: Output | None = None, *, opening: bool = True) -> Showing:
    """What shows the progress of a command as `output` asks, and as the terminal can.

    ```python
    with reporter(output) as report:
        train(options, out, report=report)
    ```

    opening: whether a phase says at once that it begins, where there is no terminal.
    """
    output = output or Output()
    choose_form(output.log_format)
    if output.quiet:
        return QuietReporter()
    console = Terminal(stderr=True)
    if output.log_format == "text" and console.is_terminal and not console.is_dumb_terminal:
        return TerminalReporter()
    return LineReporter(opening=opening)


class QuietReporter:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def note(self, text: str) -> None:
        """Nothing."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Nothing."""


class TerminalReporter:
    """One bar per stage: its name, count and total, the time so far and the time that remains."""

    def __init__(self) -> None:
        self.console = Terminal(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:32}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, highlight=False, markup=False)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Move the bar of a stage. Stages that differ only in the text in parentheses share one bar."""
        key = key_of(stage)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(stage, total=total or None)
        self._bars.update(self._tasks[key], description=stage, completed=done, total=total or None)


def key_of(stage: str) -> str:
    """A stage without its text in parentheses, which changes on the way."""
    return stage.split(" (")[0]


@dataclass
class _Phase:
    stage: str
    first: int
    done: int
    total: int
    began: float = field(default_factory=time.monotonic)
    told: bool = False

    @property
    def over(self) -> bool:
        return bool(self.total) and self.done >= self.total

    @property
    def counted(self) -> str:
        return f"{self.done:,} of {self.total:,}" if self.total else f"{self.done:,}"

    def left(self, now: float) -> str:
        """The time that remains at the rate so far."""
        did = self.done - self.first
        if did <= 0 or not self.total:
            return ""
        return f", about {spoken((now - self.began) / did * (self.total - self.done))} left"


def spoken(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3 h 20 min."""
    whole = max(round(seconds), 1)
    if whole < 90:
        return f"{whole} s"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class LineReporter:
    """A line for each phase, and one every `every` seconds with the time that remains: for logs, and as JSON."""

    def __init__(self, *, every: float = EVERY, opening: bool = True) -> None:
        self.console = Terminal(stderr=True, soft_wrap=True)
        self._every, self._opening = every, opening
        self._phases: dict[str, _Phase] = {}
        self._at: _Phase | None = None
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ticking = threading.Thread(target=self._tick, name="oodguard-progress", daemon=True)
        self._json = writes_json()

    def __enter__(self) -> Self:
        self._ticking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._ticking.join()

    def note(self, text: str) -> None:
        """Write a line."""
        with self._lock:
            self._write(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Remember how far a stage is; write a line where it begins, and where one that took long ends."""
        key = key_of(stage)
        with self._lock:
            phase = self._phases.get(key)
            # A stage that begins again, such as the epochs of the next training, counts anew and is not told twice.
            if phase is None or (phase.over and done < total):
                first = phase is None
                phase = self._phases[key] = _Phase(stage, done, done, total)
                if first and self._opening:
                    self._write(phase.counted, phase)
            was_over = phase.over
            phase.stage, phase.done, phase.total = stage, done, total
            self._at = phase
            if phase.over and not was_over and (phase.told or self._json):
                self._write(f"{phase.counted} in {spoken(time.monotonic() - phase.began)}", phase)

    def _tick(self) -> None:
        while not self._ended.wait(self._every):
            with self._lock:
                now = time.monotonic()
                if self._at is None or self._at.over:
                    self._write(f"at work for {spoken(now - self._began)}")
                else:
                    self._at.told = True
                    self._write(f"{self._at.counted}{self._at.left(now)}", self._at)

    def _write(self, text: str, phase: _Phase | None = None) -> None:
        if self._json and phase is not None:
            line = json_record("info", text, phase=key_of(phase.stage), done=phase.done, total=phase.total)
        elif self._json:
            line = json_record("info", text)
        else:
            name = "" if phase is None else f"{phase.stage}: "
            line = f"{datetime.now():%H:%M:%S} {name}{text}"
        self.console.print(line, highlight=False, markup=False)

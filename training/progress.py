"""How long work tells what it is doing, without knowing a terminal."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives progress. The command line draws it; tests and scripts may ignore it."""

    def note(self, text: str) -> None:
        """One line worth keeping."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` steps of a stage; the last call of a stage has done == total."""


class Silent:
    """A reporter that says nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Nothing."""

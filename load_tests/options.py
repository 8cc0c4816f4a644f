"""The command line of a benchmark: the options that most of them share."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from oodguard.core.errors import InputError


class Options(argparse.ArgumentParser):
    """A parser that shared options are added to, group by group.

    ```python
    options = Options("What callers wait.", seconds=10).add_bundle().add_images().parse()
    ```
    """

    def __init__(self, description: str, *, seconds: float | None = None, rounds: int | None = None) -> None:
        super().__init__(description=description)
        self.add_argument("--json", type=Path, help="file to write the rows to")
        if rounds is not None:
            self.add_argument(
                "--rounds", type=int, default=rounds, help=f"how often all are measured in turn (default: {rounds})"
            )
        if seconds is not None:
            self.add_argument(
                "--seconds", type=float, default=seconds, help=f"length of each measurement (default: {seconds:g})"
            )

    def add_bundle(self, *, several: bool = False) -> Options:
        """Take one bundle, or several."""
        nargs = "+" if several else None
        self.add_argument("bundle", type=Path, nargs=nargs, metavar="BUNDLE", help="folder written by oodguard export")
        return self

    def add_images(self, *, count: int = 16) -> Options:
        """Take a folder of images, and how many of them are used."""
        self.add_argument("--images", type=Path, required=True, help="folder of images, searched recursively")
        self.add_argument("--count", type=int, default=count, help=f"how many different images (default: {count})")
        return self

    def add_serve(self) -> Options:
        """Take options of the server."""
        self.add_argument("--serve", default="", help='options for oodguard serve, as one string: "--max-batch 8"')
        return self

    def add_connections(self) -> Options:
        """Take how many connections call at once."""
        self.add_argument("--connections", type=int, default=16, help="connections that call at once (default: 16)")
        return self

    def parse(self) -> argparse.Namespace:
        """The options as given. Raises `InputError` for a number that must be at least 1 and is not."""
        found = self.parse_args()
        for name in ("rounds", "seconds", "count", "connections"):
            if getattr(found, name, 1) < 1:
                raise InputError(f"--{name} must be at least 1; got {getattr(found, name)}")
        found.serve = shlex.split(getattr(found, "serve", ""))
        return found

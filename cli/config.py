"""The configuration file: one TOML table per command."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Toml

from oodguard.core.errors import InputError

CONFIG_FILE = "oodguard.toml"
# What a file that merely lies in the current folder may not decide: where pictures and keys go, who may ask, and what
# is trusted. Whoever unpacks somebody's archive and works in it did not choose these.
CHOSEN_ONLY = frozenset(
    {
        *("url", "key", "host", "admin-host", "auth", "key-file", "key-hashes", "trust"),
        *("tls-cert", "tls-key", "tls-ca", "cors-origins", "root-path", "host-names", "key-weights"),
        *("triton-url", "triton-tls", "triton-ca", "triton-cert", "triton-key"),
        *("sample-dir", "sample-store", "sample-webhook", "sample-webhook-secret", "traces-endpoint", "ray"),
    }
)


class ConfigFile:
    """A source of options for cyclopts, from `path`: chosen with `--config`, or found in the current folder.

    say: takes a line about a file that was found, once. Raises `InputError` for a table that is no command, and for an
    option in a file that was found which only a chosen file may set.
    """

    def __init__(self, path: Path, *, chosen: bool, commands: Iterable[str], say: Callable[[str], None]) -> None:
        self._toml = Toml(path, must_exist=chosen)
        self._path = path
        self._chosen = chosen
        self._commands = frozenset(commands)
        self._say = say
        self._said = False

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Give `arguments` what the file says about the command."""
        tables = self._toml.config
        for name, table in tables.items():
            if name not in self._commands or not isinstance(table, dict):
                raise InputError(
                    f"{self._path}: [{name}] is no command's table; there are {', '.join(sorted(self._commands))}"
                )
        table = tables.get(commands[0], {}) if commands else {}
        if not self._chosen:
            self._refuse(commands, table)
            if table and not self._said:
                self._said = True
                self._say(f"options of [{commands[0]}] are read from {self._path.absolute()}")
        self._toml(app, commands, arguments)

    def _refuse(self, commands: tuple[str, ...], table: dict[str, Any]) -> None:
        for option in table:
            spelled = option.replace("_", "-")
            if spelled in CHOSEN_ONLY:
                raise InputError(
                    f"{self._path.absolute()} sets {spelled}, which a file found in the current folder may not; "
                    f"name the file with --config {self._path}, or use the environment or --{spelled}"
                )

"""`oodguard key`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from oodguard.cli.terminal import Terminal


def key(name: Annotated[str, Parameter(help="Who will use the key; the server's log shows this name.")]) -> None:
    """Make an API key, and the line for the server's key file.

    The command shows the key once; the line holds its hash. Several keys may be valid at once: add the new line, let
    callers change over, then remove the old line. A running server reads the key file again when you change it.

    Example: oodguard key alice
    """
    from oodguard.core.errors import InputError
    from oodguard.server.keys import ENTRY, digest, new_key

    secret = new_key()
    entry = f"{name}:{digest(secret)}"
    if not ENTRY.match(entry):
        raise InputError(f"{name!r} is not a name; use 1 to 64 letters, digits, dots, dashes and underscores")
    console = Terminal(soft_wrap=True)
    console.print(f"key, for the caller (shown once): [bold]{secret}[/]", highlight=False)
    console.print(f"line for the key file:            {entry}", highlight=False)

"""`oodguard key`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console


def key(name: Annotated[str, Parameter(help="Who the key is for; appears in the log.")]) -> None:
    """Make an API key. The key is shown once; its hash goes into the key file.

    Several keys may be valid at once: add the new line, let callers change over, remove the old line. A serving
    process reads the file again when it changes.

    Example: oodguard key alice
    """
    from oodguard.core.errors import InputError
    from oodguard.server.keys import ENTRY, digest, new_key

    secret = new_key()
    entry = f"{name}:{digest(secret)}"
    if not ENTRY.match(entry):
        raise InputError("a name is 1 to 64 letters, digits, dots, dashes and underscores")
    console = Console(soft_wrap=True)
    console.print(f"key, for the caller (shown once): [bold]{secret}[/]", highlight=False)
    console.print(f"line for the key file:            {entry}", highlight=False)

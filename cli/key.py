"""`oodguard key`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from oodguard.cli.terminal import Terminal


def key(
    name: Annotated[str, Parameter(help="Who will use the key; the server's log shows this name.")],
    *,
    role: Annotated[
        Literal["predict", "admin"],
        Parameter(help="predict: asks about images; admin: also reloads the bundle."),
    ] = "predict",
) -> None:
    """Make an API key, and the line for the server's key file.

    The key goes to the terminal (standard error), once; the line, which holds its hash, goes to standard output.
    Several keys may be valid at once: add the new line, let callers change over, then remove the old line. A running
    server reads the key file again when you change it.

    Example: oodguard key alice >> keys
    """
    from oodguard.core.errors import InputError
    from oodguard.server.keys import ENTRY, Role, digest, new_key

    secret = new_key()
    entry = f"{name}:{digest(secret)}{'' if role == Role.PREDICT.value else ':' + role}"
    if not ENTRY.match(entry):
        raise InputError(f"{name!r} is not a name; use 1 to 64 letters, digits, dots, dashes and underscores")
    aside = Terminal(soft_wrap=True, stderr=True)
    aside.print(f"key, for the caller (shown once): [bold]{secret}[/]", highlight=False)
    aside.print("line for the key file:", highlight=False)
    Terminal(soft_wrap=True).print(entry, highlight=False)

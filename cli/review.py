"""`oodguard review`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from oodguard.cli.terminal import Terminal
from oodguard.cli.whole import Whole
from oodguard.clients.review import DEFAULT_LIMIT
from oodguard.clients.review import review as make_review
from oodguard.core.errors import EnvironmentProblem, InputError


def review(
    folder: Annotated[Path, Parameter(help="Folder of sampled flagged images, each with its .json sidecar.")],
    *,
    out: Annotated[Path, Parameter(help="HTML page to write.")] = Path("review.html"),
    limit: Annotated[
        Whole, Parameter(help="Maximum images on the page; the highest scores come first.")
    ] = DEFAULT_LIMIT,
) -> None:
    """Make one HTML page of sampled flagged images, highest OOD score first.

    The page is a single file without scripts. It lists damaged images and sidecars, and shows all others.

    Example: oodguard review flagged --out review.html
    """
    if limit < 1:
        raise InputError("--limit must be at least 1")
    found = make_review(folder, limit=limit)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(found.html, encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(f"{out} cannot be written ({error.strerror}); choose another --out") from None
    more = f", {found.left:,} more with lower scores" if found.left else ""
    console = Terminal(soft_wrap=True)
    console.print(
        f"{out}: {found.shown:,} shown{more}, {len(found.unreadable):,} could not be read",
        highlight=False,
        markup=False,
    )

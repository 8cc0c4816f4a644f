"""`oodguard samples`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console


def samples(
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")] = Path("samples"),
    cache: Annotated[Path, Parameter(help="Where the digits are cached.")] = Path(".oodguard-cache"),
) -> None:
    """Write two images to try the embedded digits guard with: one in distribution, one out.

    Example: oodguard samples --out samples
    """
    from oodguard.training.photos.digits import write_samples

    for path in write_samples(cache, out):
        Console().print(str(path))

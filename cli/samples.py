"""`oodguard samples`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def samples(
    *,
    out: Annotated[Path, Parameter(help="Folder to write.")] = Path("samples"),
    cache: Annotated[Path, Parameter(help="Folder in which to cache the digits.")] = Path(".oodguard-cache"),
) -> None:
    """Write two images to try the embedded digits guard with.

    One is in distribution, one is not.

    Example: oodguard samples --out samples
    """
    from oodguard.training.photos.digits import write_samples

    for path in write_samples(cache, out):
        print(path)

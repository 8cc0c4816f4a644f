"""Suites by name, and any folder as a suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oodguard.bench.arena import Suite
from oodguard.bench.cifar import CifarSuite
from oodguard.bench.folders import SUITES, FolderSuite
from oodguard.core.errors import InputError
from oodguard.evaluation.evaluate import parse_sets


def suites() -> dict[str, Suite]:
    """Every suite by name."""
    cifar = CifarSuite()
    return {**SUITES, cifar.name: cifar}


def suite_of(name: str, ood: Sequence[str] = (), outliers: Path | None = None) -> Suite:
    """The suite `name`, or a folder of photos with `ood` sets as `name=folder` and optional auxiliary outliers.

    Raises `InputError` for anything else.
    """
    known = suites()
    if name in known:
        if ood or outliers is not None:
            raise InputError(
                f"the suite {name} brings its own OOD sets and outliers; --ood and --outliers go with a folder"
            )
        return known[name]
    folder = Path(name)
    if not folder.exists():
        raise InputError(f"{name!r} is neither a suite ({', '.join(known)}) nor a folder of photos")
    return FolderSuite(
        name=folder.name,
        summary=f"photos in {folder}",
        inside=folder.absolute(),
        ood={title: ("far", path.absolute()) for title, path in parse_sets(ood).items()},
        outliers=None if outliers is None else outliers.absolute(),
    )

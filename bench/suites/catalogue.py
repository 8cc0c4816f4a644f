"""Every suite by name, and any folder of photos as a suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oodguard.bench.arena import Suite
from oodguard.bench.suites.cifar import CifarSuite
from oodguard.bench.suites.fashion import FashionSuite
from oodguard.bench.suites.folders import FOLDER_SUITES, FolderSuite
from oodguard.core.errors import InputError
from oodguard.evaluation.evaluate import parse_sets

SUITES: dict[str, Suite] = {suite.name: suite for suite in (*FOLDER_SUITES, CifarSuite(), FashionSuite())}


def suite_of(name: str, *, ood: Sequence[str], outliers: Path | None) -> Suite:
    """The suite `name`, or a folder of photos with its OOD sets as `name=folder` and optional auxiliary outliers.

    Raises `InputError` for anything else.
    """
    if name in SUITES:
        if ood or outliers is not None:
            raise InputError(f"the suite {name} brings its own OOD sets and outliers; leave --ood and --outliers out")
        return SUITES[name]
    folder = Path(name)
    if not folder.exists():
        raise InputError(f"{name!r} is neither a suite ({', '.join(SUITES)}) nor a folder of photos; name one of them")
    return FolderSuite(
        name=folder.name,
        summary=f"photos in {folder}",
        photos=folder.absolute(),
        ood_sets={title: ("far", path.absolute()) for title, path in parse_sets(ood).items()},
        outliers=None if outliers is None else outliers.absolute(),
    )

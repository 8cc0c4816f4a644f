"""What is listed about suites is true. tests/test_seams.py looks for classes that are not listed."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

from oodguard.bench import suites
from oodguard.bench.suites.catalogue import SUITES, suite_of
from oodguard.bench.suites.folders import FolderSuite
from oodguard.core.errors import InputError


def test_every_suite_of_a_family_is_in_the_catalogue() -> None:
    seen = 0
    for found in pkgutil.iter_modules(suites.__path__):
        module = importlib.import_module(f"{suites.__name__}.{found.name}")
        for family in vars(module).values():
            for suite in family if isinstance(family, tuple) else ():
                if hasattr(suite, "plans"):
                    seen += 1
                    assert SUITES.get(suite.name) is suite, f"{found.name}: {suite.name} is missing from SUITES"
    assert seen >= 3


def test_names_and_summaries_are_those_of_the_suites() -> None:
    assert len({suite.summary for suite in SUITES.values()}) == len(SUITES)
    assert all(suite.name == name and suite.summary.startswith("ID ") for name, suite in SUITES.items())


def test_a_folder_is_a_suite_with_the_ood_sets_it_is_given(tmp_path: Path) -> None:
    found = suite_of(str(tmp_path), ood=[f"noise={tmp_path}"], outliers=None)
    assert isinstance(found, FolderSuite)
    assert (found.photos, found.ood_sets) == (tmp_path, {"noise": ("far", tmp_path)})
    with pytest.raises(InputError, match="'nowhere' is neither a suite"):
        suite_of("nowhere", ood=[], outliers=None)

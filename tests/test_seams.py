"""What is written and not registered fails here: CONTRIBUTING.md names these tests."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import oodguard.bench
import oodguard.bench.methods
from oodguard.bench.arena import Suite
from oodguard.bench.methods.catalogue import METHODS
from oodguard.bench.methods.method import Method
from oodguard.bench.suites import suites
from oodguard.core.formats import FORMAT_NAMES
from oodguard.core.scores import REGISTRY, ScoreName


def classes(package: ModuleType, *functions: str) -> set[type]:
    """Every class of a package's modules that defines these functions."""
    found = set()
    for entry in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for _, kind in inspect.getmembers(importlib.import_module(entry.name), inspect.isclass):
            if all(inspect.isfunction(getattr(kind, function, None)) for function in functions):
                found.add(kind)
    return found


def test_every_score_is_registered() -> None:
    assert set(REGISTRY) == set(ScoreName)


def test_every_method_is_in_the_catalogue() -> None:
    listed = {type(method) for method in METHODS.values()}
    assert classes(oodguard.bench.methods, "build", "train") - {Method} == listed


def test_every_suite_is_listed() -> None:
    listed = {type(suite) for suite in suites().values()}
    assert classes(oodguard.bench, "plans") - {Suite} == listed


@pytest.mark.parametrize("document", ["API.md", "DATA.md"])
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_the_documents_list_every_format(document: str, name: str) -> None:
    assert name in (Path(__file__).parents[1] / "docs" / document).read_text(encoding="utf-8").upper()

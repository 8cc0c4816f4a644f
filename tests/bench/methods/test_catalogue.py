"""What is listed about methods is all there is, and true. tests/test_seams.py looks for classes that are not listed."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

from oodguard.bench import baselines, methods
from oodguard.bench.methods.catalogue import HEADLINES, METHODS, chosen, start_of
from oodguard.core.errors import InputError


def test_every_method_of_a_family_is_in_the_catalogue() -> None:
    seen = 0
    for found in pkgutil.iter_modules(methods.__path__):
        module = importlib.import_module(f"{methods.__name__}.{found.name}")
        for family in vars(module).values():
            for method in family if isinstance(family, tuple) else ():
                if hasattr(method, "train"):
                    seen += 1
                    assert METHODS.get(method.name) is method, f"{found.name}: {method.name} is missing from METHODS"
    assert seen > 20


def test_every_baseline_is_given_by_a_method() -> None:
    imported = set()
    for path in (file for folder in (methods, baselines) for file in Path(folder.__path__[0]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    for found in pkgutil.iter_modules(baselines.__path__, f"{baselines.__name__}."):
        assert found.name in imported, f"no method gives the scores of {found.name}"


def test_names_are_unique_and_no_method_starts_from_one_that_starts_from_another() -> None:
    assert len({method.summary for method in METHODS.values()}) == len(METHODS)
    for name, method in METHODS.items():
        assert method.name == name
        before = start_of(method)
        assert before is None or start_of(before) is None
    assert set(HEADLINES) <= set(METHODS)


def test_a_method_follows_the_one_it_starts_from() -> None:
    assert [method.name for method in chosen(["amp-2", "ldr", "amp"])] == ["amp", "amp-2", "single", "ldr"]
    assert [method.name for method in chosen([])] == list(METHODS)
    with pytest.raises(InputError, match="there is no method 'magic'; methods: single, "):
        chosen(["ldr", "magic"])

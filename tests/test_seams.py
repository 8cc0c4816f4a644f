"""What is written and not registered fails here: CONTRIBUTING.md names these tests."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
from types import ModuleType

import pytest
from PIL import Image

import oodguard.bench
import oodguard.bench.methods
from oodguard.bench.arena import Suite
from oodguard.bench.methods.catalogue import METHODS
from oodguard.bench.methods.method import Method
from oodguard.bench.suites import suites
from oodguard.core.preprocessing import IMAGE_SUFFIXES, SUPPORTED_FORMATS
from oodguard.core.scores import REGISTRY, ScoreName
from oodguard.server.page import IMAGE_TYPES
from oodguard.server.sampling import KINDS


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


@pytest.mark.parametrize("kind", SUPPORTED_FORMATS)
def test_every_format_has_a_suffix_and_a_signature(kind: str) -> None:
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name == kind} & {*IMAGE_SUFFIXES}
    assert suffixes
    assert suffixes <= {*IMAGE_TYPES}
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind)
    assert any(stream.getvalue().startswith(start) and suffix in suffixes for start, suffix in KINDS)

"""What is written and not registered fails here: CONTRIBUTING.md names these tests."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

import oodguard.bench.methods
import oodguard.bench.suites
import oodguard.training.backbone
from oodguard.bench.arena import Suite
from oodguard.bench.methods.catalogue import METHODS
from oodguard.bench.methods.method import Method
from oodguard.bench.suites.catalogue import SUITES
from oodguard.core.formats import FORMAT_NAMES
from oodguard.core.scores import REGISTRY, ScoreName
from oodguard.server.metrics import Metrics
from oodguard.server.offline.options import ScoreOptions
from oodguard.server.settings import ServeSettings
from oodguard.training.backbone.sources import SOURCES
from oodguard.training.options import TrainOptions

ROOT = Path(__file__).parents[1]
ROOMS = sorted(path.name for path in (ROOT / "oodguard").iterdir() if path.is_symlink())


def submodules(package: ModuleType) -> list[str]:
    return [entry.name for entry in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]


def classes(package: ModuleType, *functions: str) -> set[type]:
    """Every class of a package's modules that defines these functions."""
    found = set()
    for name in submodules(package):
        for _, kind in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            if all(inspect.isfunction(getattr(kind, function, None)) for function in functions):
                found.add(kind)
    return found


def test_every_score_is_registered() -> None:
    assert set(REGISTRY) == set(ScoreName)


def test_every_method_is_in_the_catalogue() -> None:
    listed = {type(method) for method in METHODS.values()}
    assert classes(oodguard.bench.methods, "build", "train") - {Method} == listed


def test_every_suite_is_listed() -> None:
    listed = {type(suite) for suite in SUITES.values()}
    assert classes(oodguard.bench.suites, "plans") - {Suite} == listed


def test_every_source_of_backbones_is_registered() -> None:
    modules = [importlib.import_module(name) for name in submodules(oodguard.training.backbone)]
    assert {m.__name__ for m in modules if hasattr(m, "load") and hasattr(m, "rebuild")} == {
        source.__name__ for source in SOURCES.values() if inspect.ismodule(source)
    }


@pytest.mark.parametrize("document", ["API.md", "DATA.md"])
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_the_documents_list_every_format(document: str, name: str) -> None:
    assert name in (ROOT / "docs" / document).read_text(encoding="utf-8").upper()


@pytest.fixture(scope="module")
def code() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for room in ROOMS for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("options", [TrainOptions, ScoreOptions, ServeSettings])
def test_every_option_is_read(options: type[BaseModel], code: str) -> None:
    assert [name for name in options.model_fields if not re.search(rf"\.{name}\b", code)] == []


def test_every_metric_is_counted(code: str) -> None:
    # Once where it is made, and at least once where it is counted.
    assert [name for name in vars(Metrics()) if len(re.findall(rf"\.{name}\b", code)) < 2] == []

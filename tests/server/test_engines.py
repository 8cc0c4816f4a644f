"""An engine that is registered is known everywhere; one that is not fails here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from oodguard.cli.main import run
from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.manifest import load_manifest
from oodguard.server import engines
from oodguard.server.engines import registry
from oodguard.server.engines.registry import ENGINES, LOCAL, REMOTE, EngineEntry, build_engine, one_of
from oodguard.server.offline.options import ScoreOptions
from oodguard.server.search import search
from oodguard.server.settings import ServeSettings
from oodguard.server.tuning import EnginePlan, plan_for

ROOT = Path(__file__).parents[2]
# Made for tests, which hand it over.
UNREGISTERED = {"fake"}


def test_every_engine_that_is_written_is_registered() -> None:
    found = set()
    for module in pkgutil.iter_modules(engines.__path__, engines.__name__ + "."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if isinstance(getattr(kind, "name", None), str) and inspect.iscoroutinefunction(
                getattr(kind, "infer", None)
            ):
                found.add(kind.name)
    assert found - UNREGISTERED == set(ENGINES)


def test_every_engine_has_an_extra_that_installs_it() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for engine in (*LOCAL.values(), *REMOTE.values()):
        assert any(requirement.startswith(engine.modules[0]) for requirement in extras[engine.extra])
        assert engine.missing is None


@pytest.mark.parametrize("name", ENGINES)
def test_serving_takes_every_engine(name: str) -> None:
    more: dict[str, Any] = {"triton_url": "a:8001"} if name == "triton" else {}
    assert ServeSettings(bundle=Path("x"), engine=name, **more).engine == name


@pytest.mark.parametrize("name", LOCAL)
def test_a_plan_and_scoring_take_every_engine_that_runs_here(bundle: Path, name: str) -> None:
    settings = ServeSettings(bundle=bundle, engine=name)
    assert plan_for(settings, load_manifest(bundle)).engine == name
    assert ScoreOptions(bundle=bundle, source="x", out=Path("x.csv"), engine=name).engine == name


@pytest.mark.parametrize("command", ["serve", "score", "tune"])
def test_help_names_every_engine(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert run([command, "--help"]) == 0
    assert one_of(ENGINES if command == "serve" else LOCAL) in capsys.readouterr().out


def test_an_unknown_engine_is_an_error_that_lists_the_names(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValidationError, match="choose onnxruntime, openvino or triton"):
        ServeSettings(bundle=bundle, engine="tensorrt")
    for remote_or_unknown in ("tensorrt", "triton"):
        with pytest.raises(ValidationError, match="choose onnxruntime or openvino"):
            EnginePlan(engine=remote_or_unknown, sessions=1, threads=1, max_batch=1)
        with pytest.raises(InputError, match="choose onnxruntime or openvino"):
            search(bundle, engines=(remote_or_unknown,))
    assert run(["serve", str(bundle), "--engine", "tensorrt"]) == 2
    assert capsys.readouterr().err.strip() == "error: --engine: choose onnxruntime, openvino or triton; got 'tensorrt'"
    assert run(["tune", str(bundle), "--engine", "tensorrt"]) == 2
    assert "'tensorrt' is not an engine that runs here" in capsys.readouterr().err


def test_an_engine_whose_package_is_missing_names_its_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = EngineEntry(LOCAL["openvino"].load, ("no_such_package",), extra="openvino")
    monkeypatch.setitem(LOCAL, "openvino", absent)
    assert registry.installed_engines() == ("onnxruntime",)
    plan = EnginePlan(engine="openvino", sessions=1, threads=1, max_batch=1)
    with pytest.raises(
        EnvironmentProblem, match=r"no_such_package is not installed; pip install 'oodguard\[openvino\]'"
    ):
        build_engine(bundle, load_manifest(bundle), plan)

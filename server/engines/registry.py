"""Every engine by name: how it is loaded, where it runs, and which extra installs it.

To add one, write its class beside the others, list it in `LOCAL` or `REMOTE`, and give it an extra in pyproject.toml:
settings, `oodguard serve`, `tune` and `score` read its name from here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, WithJsonSchema

from oodguard.core.errors import EnvironmentProblem, InputError

if TYPE_CHECKING:
    from oodguard.core.explainer import Explainer
    from oodguard.core.manifest import Manifest
    from oodguard.server.engines.base import Engine, RemoteEngine
    from oodguard.server.settings import ServeSettings
    from oodguard.server.tuning import EnginePlan

Device = Literal["auto", "cpu", "cuda"]
Load = TypeVar("Load")


@dataclass(frozen=True, slots=True)
class EngineEntry(Generic[Load]):
    """How an engine is loaded: the `modules` it needs are installed by the `extra` of this package."""

    load: Load
    modules: tuple[str, ...]
    extra: str
    cpu_only: bool = False

    @property
    def missing(self) -> str | None:
        """The first module that is not installed; None where the engine can be loaded."""
        return next((module for module in self.modules if find_spec(module) is None), None)

    def loader(self) -> Load:
        """`load`; raises `EnvironmentProblem` unless the engine is installed."""
        if self.missing:
            raise EnvironmentProblem(f"{self.missing} is not installed; pip install 'oodguard[{self.extra}]' brings it")
        return self.load


def _onnxruntime(bundle: Path, manifest: Manifest, plan: EnginePlan, device: Device) -> Engine:
    from oodguard.server.engines.ort import OrtEngine

    return OrtEngine(bundle, manifest, device=device, sessions=plan.sessions, threads=plan.threads)


def _openvino(bundle: Path, manifest: Manifest, plan: EnginePlan, device: Device) -> Engine:
    from oodguard.server.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(bundle, manifest, sessions=plan.sessions, threads=plan.threads)


def _triton(settings: ServeSettings) -> tuple[Explainer, RemoteEngine]:
    # gRPC writes to standard error by itself, in a format of its own; what matters is in our log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from oodguard.server.engines.triton import load_triton

    return load_triton(settings)


# Engines that run the graph in this process, as a plan says.
LOCAL: dict[str, EngineEntry[Callable[[Path, Manifest, EnginePlan, Device], Engine]]] = {
    "onnxruntime": EngineEntry(_onnxruntime, ("onnxruntime",), extra="guard"),
    "openvino": EngineEntry(_openvino, ("openvino",), extra="openvino", cpu_only=True),
}
# Engines on other machines, which batch by themselves, and know manifest and bank where there is no bundle.
REMOTE: dict[str, EngineEntry[Callable[[ServeSettings], tuple[Explainer, RemoteEngine]]]] = {
    "triton": EngineEntry(_triton, ("tritonclient", "grpc"), extra="triton"),
}
ENGINES = (*LOCAL, *REMOTE)
DEFAULT = "onnxruntime"


def one_of(names: Collection[str]) -> str:
    """Names in a sentence: "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _among(names: Collection[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"choose {one_of(names)}")
        return name

    return AfterValidator(check)


# The names as types of a pydantic field.
LocalEngineName = Annotated[str, _among(LOCAL), WithJsonSchema({"enum": list(LOCAL), "type": "string"})]
EngineName = Annotated[str, _among(ENGINES), WithJsonSchema({"enum": list(ENGINES), "type": "string"})]


def installed_engines() -> tuple[str, ...]:
    """The engines of `LOCAL` that can be loaded here."""
    return tuple(name for name, engine in LOCAL.items() if engine.missing is None)


def require_local(names: Collection[str]) -> None:
    """Raise `InputError`, which lists the names there are, for one that is not in `LOCAL`."""
    for name in names:
        if name not in LOCAL:
            raise InputError(f"{name!r} is not an engine that runs here; choose {one_of(LOCAL)}")


def build_engine(bundle: Path, manifest: Manifest, plan: EnginePlan, *, device: Device = "auto") -> Engine:
    """The engine that a plan asks for. Raises `FormatError` or `EnvironmentProblem`."""
    return LOCAL[plan.engine].loader()(bundle, manifest, plan, device)

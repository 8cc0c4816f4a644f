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
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, WithJsonSchema

from oodguard.core.errors import EnvironmentProblem, InputError

if TYPE_CHECKING:
    from oodguard.core.manifest import Manifest
    from oodguard.server.engines.base import Engine, RemoteEngine
    from oodguard.server.settings import ServeSettings
    from oodguard.server.tuning import EnginePlan

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installable:
    """What an engine needs: the `modules` it imports, and the `extra` of this package that installs them."""

    modules: tuple[str, ...]
    extra: str

    @property
    def installed(self) -> bool:
        """Whether the engine can be loaded here."""
        return all(find_spec(module) is not None for module in self.modules)

    def require(self, name: str) -> None:
        """Raise `EnvironmentProblem` unless the engine can be loaded here."""
        if not self.installed:
            raise EnvironmentProblem(f"the {name} engine needs: pip install oodguard[{self.extra}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEngine(Installable):
    """An engine that runs the graph in this process, as a plan says."""

    load: Callable[[Path, Manifest, EnginePlan, Device], Engine]
    cpu_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteLoader(Installable):
    """An engine on other machines: it batches by itself, and can tell the manifest where there is no bundle."""

    load: Callable[[ServeSettings], tuple[Manifest, RemoteEngine]]


def _onnxruntime(bundle: Path, manifest: Manifest, plan: EnginePlan, device: Device) -> Engine:
    from oodguard.server.engines.ort import OrtEngine

    return OrtEngine(bundle, manifest, device=device, sessions=plan.sessions, threads=plan.threads)


def _openvino(bundle: Path, manifest: Manifest, plan: EnginePlan, device: Device) -> Engine:
    from oodguard.server.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(bundle, manifest, sessions=plan.sessions, threads=plan.threads)


def _triton(settings: ServeSettings) -> tuple[Manifest, RemoteEngine]:
    # gRPC writes to standard error by itself, in a format of its own; what matters is in our log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from oodguard.server.engines.triton import load_triton

    return load_triton(settings)


LOCAL = {
    "onnxruntime": LocalEngine(load=_onnxruntime, modules=("onnxruntime",), extra="serve"),
    "openvino": LocalEngine(load=_openvino, modules=("openvino",), extra="openvino", cpu_only=True),
}
REMOTE = {"triton": RemoteLoader(load=_triton, modules=("tritonclient", "grpc"), extra="triton")}
DEFAULT = "onnxruntime"


def one_of(names: Collection[str]) -> str:
    """Names in a sentence: "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _among(names: Collection[str]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"choose {one_of(names)}")
        return name

    return check


ENGINES = (*LOCAL, *REMOTE)
# The names as types of a pydantic field: its errors, its JSON schema and its help list the registry's names.
LocalEngineName = Annotated[
    str,
    AfterValidator(_among(LOCAL)),
    WithJsonSchema({"enum": list(LOCAL), "type": "string"}),
]
EngineName = Annotated[
    str,
    AfterValidator(_among(ENGINES)),
    WithJsonSchema({"enum": list(ENGINES), "type": "string"}),
]


def installed_engines() -> tuple[str, ...]:
    """The engines of `LOCAL` that can be loaded here."""
    return tuple(name for name, engine in LOCAL.items() if engine.installed)


def local_engine(name: str) -> LocalEngine:
    """The engine of that name in `LOCAL`. Raises `InputError`, which lists the names."""
    if name not in LOCAL:
        raise InputError(f"{name!r} is not an engine that runs here; choose {one_of(LOCAL)}")
    return LOCAL[name]


def build_engine(bundle: Path, manifest: Manifest, plan: EnginePlan, *, device: Device = "auto") -> Engine:
    """The engine that a plan asks for. Raises `FormatError` or `EnvironmentProblem`."""
    engine = local_engine(plan.engine)
    engine.require(plan.engine)
    return engine.load(bundle, manifest, plan, device)


def load_remote(settings: ServeSettings) -> tuple[Manifest, RemoteEngine]:
    """The manifest and the remote engine that settings ask for. Raises `FormatError` or `EnvironmentProblem`."""
    name = settings.engine or ""
    REMOTE[name].require(name)
    return REMOTE[name].load(settings)

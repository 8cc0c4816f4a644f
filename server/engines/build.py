"""From a plan to a running engine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from oodguard.core.manifest import Manifest
from oodguard.server.engines.base import Engine
from oodguard.server.engines.ort import OrtEngine
from oodguard.server.tuning import Plan


def build_engine(
    bundle: Path, manifest: Manifest, plan: Plan, *, device: Literal["auto", "cpu", "cuda"] = "auto"
) -> Engine:
    """The engine that a plan asks for. Raises `FormatError` or `EnvironmentProblem`."""
    if plan.engine == "openvino":
        from oodguard.server.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(bundle, manifest, sessions=plan.sessions, threads=plan.threads)
    return OrtEngine(bundle, manifest, device=device, sessions=plan.sessions, threads=plan.threads)

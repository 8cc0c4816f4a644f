"""The chart, its value sets, and what rendering it gives."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "oodguard"
KUBERNETES = "1.37"

Document = dict[str, Any]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Rendered:
    """What a rendering consists of."""

    documents: list[Document]

    def one(self, kind: str, name: str | None = None) -> Document:
        """The only object of a kind, or the one of a name."""
        found = [d for d in self.documents if d["kind"] == kind and name in (None, d["metadata"]["name"])]
        assert len(found) == 1, [(d["kind"], d["metadata"]["name"]) for d in self.documents]
        return found[0]

    def has(self, kind: str) -> bool:
        return any(d["kind"] == kind for d in self.documents)

    @property
    def gateway(self) -> Document:
        """The gateway's container."""
        deployment = next(
            d
            for d in self.documents
            if d["kind"] == "Deployment" and d["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway"
        )
        return next(c for c in deployment["spec"]["template"]["spec"]["containers"] if c["name"] == "gateway")

    @property
    def environment(self) -> dict[str, str]:
        """The ConfigMap that is the gateway's environment."""
        return next(
            d["data"] for d in self.documents if d["kind"] == "ConfigMap" and "OODGUARD_SERVE_BUNDLE" in d["data"]
        )


Render = Callable[..., Rendered]


def value_set(name: str) -> Path:
    return CHART / "ci" / f"{name}-values.yaml"


def value_sets() -> list[str]:
    return sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))

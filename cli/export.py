"""`oodguard export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console


def export(
    run: Annotated[Path, Parameter(help="Run folder written by train.")],
    *,
    out: Annotated[Path, Parameter(help="Bundle folder to write.")],
    name: Annotated[str | None, Parameter(help="Model name; default: the run folder's name.")] = None,
    model_version: Annotated[str, Parameter(help="Model version.")] = "1",
) -> None:
    """Export a run as a bundle: one fused ONNX graph, its manifest and golden images.

    The graph must answer as PyTorch does on real images (scores within 1e-4 relative, labels and verdicts
    identical), or nothing is written.

    Example: oodguard export runs/photos --out bundles/photos
    """
    from oodguard.export.bundle import export_bundle

    console = Console()
    with Console(stderr=True).status("exporting the fused graph"):
        manifest = export_bundle(run, out, name=name, version=model_version)
    parity = manifest.parity
    worst = max(parity.max_score_error.values())
    size = sum(ref.bytes for ref in manifest.files if ref.path == manifest.graph) / 1e6
    console.print(f"[bold]{out}[/]: {manifest.name} version {manifest.version}, one graph of {size:.1f} MB")
    console.print(
        f"parity on {parity.images} real images: scores within {worst:.1e} (allowed {parity.tolerance:g}), "
        "labels and verdicts identical"
    )
    console.print(f"next: oodguard serve {out} --port 8000")

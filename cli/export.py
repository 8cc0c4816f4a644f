"""`oodguard export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from oodguard.cli.progress import TerminalReporter


def export(
    run: Annotated[Path, Parameter(help="Run folder written by train.")],
    *,
    out: Annotated[Path, Parameter(help="Bundle folder to write.")],
    name: Annotated[str | None, Parameter(help="Model name; default: the run folder's name.")] = None,
    model_version: Annotated[str, Parameter(help="Model version.")] = "1",
    precision: Annotated[
        Literal["fp32", "int8", "fp16"], Parameter(help="int8 is smaller and faster on CPUs; fp16 is for GPUs.")
    ] = "fp32",
    data: Annotated[
        Path | None, Parameter(help="int8, fp16: the run's photos, where they are no longer where train found them.")
    ] = None,
    ood: Annotated[
        list[str] | None,
        Parameter(help="int8, fp16: an OOD set as name=folder whose detection must not suffer; may be repeated."),
    ] = None,
) -> None:
    """Export a run as a bundle: one fused ONNX graph, its manifest and golden images.

    fp32: the graph must answer as PyTorch does on real images (scores within 1e-4 relative, labels and verdicts
    identical), or nothing is written. int8 and fp16: the graph must come to the same decisions as the fp32 graph on the
    run's calibration images, and every threshold is set again on its own scores.

    Example: oodguard export runs/photos --out bundles/photos
    """
    from oodguard.export.bundle import export_bundle
    from oodguard.training.evaluate import parse_sets

    console = Console()
    with TerminalReporter() as report:
        manifest = export_bundle(
            run,
            out,
            name=name,
            version=model_version,
            precision=precision,
            data=data,
            ood=parse_sets(ood or []),
            report=report,
        )
    parity = manifest.parity
    size = sum(ref.bytes for ref in manifest.files if ref.path == manifest.graph) / 1e6
    console.print(
        f"[bold]{out}[/]: {manifest.name} version {manifest.version}, one {manifest.precision} graph of {size:.1f} MB"
    )
    if manifest.precision == "fp32":
        worst = max(parity.max_score_error.values())
        console.print(
            f"parity on {parity.images} real images: scores within {worst:.1e} (allowed {parity.tolerance:g}), "
            "labels and verdicts identical"
        )
    else:
        console.print(
            f"same decisions as fp32 on {parity.images} calibration images: labels {parity.label_agreement:.1%}, "
            f"OOD flags {parity.flag_agreement:.1%}; thresholds set on the {manifest.precision} scores"
        )
        for set_name, change in parity.auroc_change.items():
            console.print(f"AUROC on {set_name}: {change:+.4f}")
    console.print(f"next: oodguard serve {out} --port 8000")

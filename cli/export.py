"""`oodguard export`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, default_name_transform
from rich.markup import escape

from oodguard.cli.artefacts import Artefact
from oodguard.cli.groups import group
from oodguard.cli.inputs import expect, expect_free, expect_photos, expect_sets
from oodguard.cli.output import Output
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.core.errors import InputError
from oodguard.core.manifest import MANIFEST_FILE, Manifest
from oodguard.export.triton.options import TritonOptions

TRITON = group("Triton")


def _triton_flag(name: str) -> str:
    return f"triton-{default_name_transform(name)}"


def export(
    run: Annotated[Path, Parameter(help="Run folder written by train; with --triton also a bundle folder.")],
    *,
    out: Annotated[Path | None, Parameter(help="Bundle folder to write.")] = None,
    name: Annotated[
        str | None, Parameter(help="Model name; default: the run folder's name, or that of the run it follows.")
    ] = None,
    model_version: Annotated[
        str | None,
        Parameter(
            help="Version of the model; default: the whole number after the versions of the same name at --out and in "
            "the folders beside it, or 1."
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "int8", "fp16"] | None,
        Parameter(help="int8 is smaller and faster on CPUs; fp16 is for GPUs; default: fp32."),
    ] = None,
    data: Annotated[
        Path | None,
        Parameter(
            help="int8, fp16, --thumbnails, wrapped classifiers: where the run's photos are now; default: where train "
            "found them."
        ),
    ] = None,
    ood: Annotated[
        list[str] | None,
        Parameter(help="int8, fp16: an OOD set as name=folder, detected as well as by fp32; repeat for more sets."),
    ] = None,
    allow_collusion: Annotated[
        bool, Parameter(help="Export even if the ensemble's members collude (see oodguard diagnose).")
    ] = False,
    thumbnails: Annotated[
        bool,
        Parameter(
            help="Pack small copies of the training photos in the bank, which explain=true then shows: whoever has the "
            "bundle, or may ask its server, can look at them.",
            negative="",
        ),
    ] = False,
    keep_probabilities: Annotated[
        bool,
        Parameter(
            help="Answer with the graph's own probabilities, not with the chances fitted to them; a wrapped classifier "
            "always keeps its own."
        ),
    ] = False,
    standalone: Annotated[
        bool, Parameter(help="Add standalone.onnx, which gives verdicts by itself, in browsers for example.")
    ] = False,
    overwrite: Annotated[
        bool, Parameter(help="Replace the bundle at --out; a server that serves it takes the new one.", negative="")
    ] = False,
    triton: Annotated[
        Path | None, Parameter(help="Triton model repository to write the model into.", group=TRITON)
    ] = None,
    options: Annotated[TritonOptions | None, Parameter(name="*", name_transform=_triton_flag, group=TRITON)] = None,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> None:
    """Export a run as a bundle, the folder that is served.

    With --triton the command also writes a Triton model repository. A bundle is one fused ONNX graph with its
    manifest and golden images. The command writes it only if the graph agrees with PyTorch on real images: scores
    within 1e-4 relative, labels and verdicts identical. An int8 or fp16 graph must come to the fp32 graph's
    decisions on the run's calibration photos, and gets thresholds from its own scores. Around a wrapped classifier,
    the probabilities must be its own, bit for bit.

    Example: oodguard export runs/photos --out bundles/photos

    Example: oodguard export bundles/photos --triton repository
    """
    what = (Artefact.RUN, Artefact.BUNDLE) if triton is not None else (Artefact.RUN,)
    expect(run, *what)
    if data is not None:
        expect_photos(data, flag="--data")
    expect_sets(ood or ())
    if out is not None:
        expect_free(out, Artefact.BUNDLE)
    if out is None and triton is None:
        raise InputError(
            f"give --out, the bundle folder to write, as in --out bundles/{run.name}, or --triton REPOSITORY"
        )
    if options is not None and triton is None:
        raise InputError("the --triton-... options need --triton, the model repository to write")
    flags = ("--out", "--name", "--model-version", "--precision", "--data", "--ood", "--thumbnails")
    values = (out, name, model_version, precision, data, ood, thumbnails or None)
    given = [flag for flag, value in zip(flags, values, strict=True) if value is not None]
    given += ["--standalone"] if standalone else []
    console = Terminal(soft_wrap=True)
    if triton is not None and (run / MANIFEST_FILE).is_file():
        if given:
            raise InputError(f"{run} is a bundle, which is exported only to --triton; leave out {', '.join(given)}")
        _to_triton(console, run, triton, options, kept=run)
        return
    from oodguard.evaluation.evaluate import parse_sets
    from oodguard.export.bundle import export_bundle

    with tempfile.TemporaryDirectory(prefix="oodguard-") as folder:
        bundle = out or Path(folder) / "bundle"
        with reporter(output) as report:
            manifest = export_bundle(
                run,
                bundle,
                name=name,
                version=model_version,
                precision=precision or "fp32",
                data=data,
                ood=parse_sets(ood or []),
                allow_collusion=allow_collusion,
                thumbnails=thumbnails,
                keep_probabilities=keep_probabilities,
                with_standalone=standalone,
                overwrite=overwrite,
                report=report,
            )
        if out is not None:
            _print_bundle(console, out, manifest)
        if triton is not None:
            _to_triton(console, bundle, triton, options, kept=out)
    if out is not None:
        console.print(f"next: oodguard serve {out} --port 8000")


def _to_triton(
    console: Terminal, bundle: Path, repository: Path, options: TritonOptions | None, *, kept: Path | None
) -> None:
    """Write a version of the model; `kept` is the bundle folder, where it stays."""
    from oodguard.export.triton.repository import write_repository

    options = options or TritonOptions()
    placed = write_repository(bundle, repository, options)
    served = ", ".join(map(str, placed.served))
    console.print(
        f"[bold]{escape(str(repository / placed.name))}[/]: version {placed.number} for Triton's {options.backend} "
        f"backend on {options.device}; versions served: {served}"
    )
    console.print(f"next: tritonserver --model-repository={repository}", highlight=False)
    what = f"{kept}" if kept else f"--triton-model {placed.name}"
    # Triton's default ports are 8000 to 8002.
    console.print(
        f"then: oodguard serve {what} --engine triton --triton-url localhost:8001 --port 8080 --admin-port 8081",
        highlight=False,
    )


def _print_bundle(console: Terminal, out: Path, manifest: Manifest) -> None:
    parity, alone = manifest.parity, manifest.standalone
    size = sum(ref.bytes for ref in manifest.files if ref.path == manifest.graph) / 1e6
    console.print(
        f"[bold]{escape(str(out))}[/]: {manifest.name} version {manifest.version}, one {manifest.precision} graph of "
        f"{size:.1f} MB"
    )
    if manifest.thumbnails is not None:
        packed = sum(ref.bytes for ref in manifest.files if ref.path == manifest.thumbnails) / 1e6
        console.print(f"thumbnails of the training photos in the bank: {packed:.1f} MB, for whoever has the bundle")
    if manifest.diagnosis is not None:
        console.print(f"ensemble {manifest.diagnosis.verdict}")
    if alone is not None:
        console.print(
            f"{alone.graph}: the same verdicts on the golden images and {alone.rows} rows of scores; fused scores "
            f"within {alone.max_score_error:.1e}"
        )
    if manifest.classifier is not None and parity.own_images is not None:
        console.print(
            f"probabilities on {parity.own_images} real images: those of {escape(manifest.classifier.file)}, bit for "
            "bit, at batch 1 and 8"
        )
    if manifest.precision == "fp32":
        worst = max(parity.max_score_error.values())
        console.print(
            f"parity on {parity.images} real images: scores within {worst:.1e} (allowed {parity.tolerance:g}), "
            "labels and verdicts identical"
        )
        return
    console.print(
        f"same decisions as fp32 on {parity.images} calibration photos: labels {parity.label_agreement:.1%}, "
        f"OOD flags {parity.flag_agreement:.1%}; thresholds set on the {manifest.precision} scores"
    )
    for set_name, change in parity.auroc_change.items():
        console.print(f"AUROC on {escape(set_name)}: {change:+.4f}")

"""`oodguard bench`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from oodguard.cli.progress import TerminalReporter

if TYPE_CHECKING:
    from oodguard.bench.arena import BenchSetting


def bench(
    suite: Annotated[str | None, Parameter(help="A suite by name, or a folder of labelled photos.")] = None,
    *,
    out: Annotated[Path | None, Parameter(help="Folder to write; what it already holds is used again.")] = None,
    methods: Annotated[str, Parameter(help="Methods by name, with commas between; default: all.")] = "",
    seeds: Annotated[int | None, Parameter(help="How many seeds, from 0; default: 3, and 1 with --quick.")] = None,
    quick: Annotated[bool, Parameter(help="Shorter training, fewer corrupted images, smaller networks.")] = False,
    data: Annotated[Path, Parameter(help="Folder that holds the suite's data sets.")] = Path("data"),
    ood: Annotated[
        list[str] | None, Parameter(help="For a folder: an OOD set as name=folder; may be repeated.")
    ] = None,
    outliers: Annotated[
        Path | None, Parameter(help="For a folder: auxiliary outliers, for the methods that learn from them.")
    ] = None,
    backbone: Annotated[str, Parameter(help="For suites of photos: any timm model.")] = "tf_efficientnet_lite0",
    image_size: Annotated[int | None, Parameter(help="For suites of photos: side of the input.")] = None,
    hidden: Annotated[
        int, Parameter(help="Hidden units of heads on features.", validator=validators.Number(gte=8, lte=4096))
    ] = 128,
    cache: Annotated[Path, Parameter(help="Where features are cached.")] = Path(".oodguard-cache"),
    devices: Annotated[int, Parameter(help="GPUs or CPU processes; 0: all GPUs, or one CPU process.")] = 0,
    threads: Annotated[int, Parameter(help="CPU threads; 0: all.")] = 0,
    list_: Annotated[bool, Parameter(name="--list", help="List suites and methods, and stop.")] = False,
) -> None:
    """Train and compare methods: the five papers', and the baselines a reader expects beside them.

    Writes results.json (one record for each method, seed, OOD set and score), results.md (mean and standard deviation
    over seeds) and report.html (plots) into --out. An interrupted comparison goes on where it stopped. Thresholds are
    calibrated on held-out ID images alone.

    Example: oodguard bench produce --data data --out results/produce --methods single,ldr,fused --quick
    """
    from oodguard.bench.arena import BenchSetting
    from oodguard.bench.methods.catalogue import METHODS
    from oodguard.bench.outcome import write_outcome
    from oodguard.bench.runner import run_bench
    from oodguard.bench.suites import suite_of, suites
    from oodguard.bench.table import to_markdown
    from oodguard.core.errors import InputError
    from oodguard.training.compute import start_compute

    console = Console()
    if list_:
        for title, rows in (("suites", suites()), ("methods", METHODS)):
            table = Table("name", "what it is", title=title)
            for name, entry in rows.items():
                table.add_row(name, entry.summary)
            console.print(table)
        return
    if suite is None or out is None:
        raise InputError("bench needs a suite and --out FOLDER; --list names suites and methods")
    seeds = (1 if quick else 3) if seeds is None else seeds
    if seeds < 1:
        raise InputError("--seeds must be at least 1")
    names = [name.strip() for name in methods.split(",") if name.strip()]
    chosen_suite = suite_of(suite, ood or [], outliers)
    setting = BenchSetting(
        data=data,
        cache=cache,
        quick=quick,
        threads=threads,
        backbone=backbone,
        image_size=image_size,
        hidden=hidden,
    )
    compute = start_compute(devices)
    with TerminalReporter() as report:
        results = run_bench(
            chosen_suite,
            setting,
            out,
            methods=names,
            seeds=seeds,
            compute=compute,
            command=_command(suite, out, names, seeds, setting, ood or [], outliers),
            report=report,
        )
    if compute.is_global_zero:
        written = write_outcome(results, out)
        console.print(Markdown(to_markdown(results)))
        console.print(f"saved: {', '.join(map(str, written))}", highlight=False)


def _command(
    suite: str,
    out: Path,
    methods: list[str],
    seeds: int,
    setting: BenchSetting,
    ood: list[str],
    outliers: Path | None,
) -> str:
    """The command line that does this comparison, whatever file or variable an option really came from."""
    words = ["oodguard", "bench", suite, "--out", str(out), "--data", str(setting.data), "--seeds", str(seeds)]
    if methods:
        words += ["--methods", ",".join(methods)]
    for pair in ood:
        words += ["--ood", pair]
    if outliers is not None:
        words += ["--outliers", str(outliers)]
    words += ["--backbone", setting.backbone]
    if setting.image_size is not None:
        words += ["--image-size", str(setting.image_size)]
    words += ["--hidden", str(setting.hidden)]
    if setting.quick:
        words.append("--quick")
    return shlex.join(words)

"""`oodguard bench`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators
from rich.markdown import Markdown
from rich.table import Table

from oodguard.cli.artefacts import Artefact
from oodguard.cli.inputs import expect, expect_sets
from oodguard.cli.output import Output
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.cli.whole import Whole
from oodguard.core.errors import InputError

if TYPE_CHECKING:
    from oodguard.bench.arena import BenchSetting


def bench(
    suite: Annotated[str | None, Parameter(help="Suite by name, or a folder of labelled photos.")] = None,
    *,
    out: Annotated[Path | None, Parameter(help="Folder for the results; finished trials in it are kept.")] = None,
    methods: Annotated[str, Parameter(help="Methods by name, separated by commas; default: all.")] = "",
    seeds: Annotated[Whole | None, Parameter(help="Number of seeds, from 0; default: 3, and 1 with --quick.")] = None,
    quick: Annotated[bool, Parameter(help="Train for fewer epochs, on fewer images, with smaller networks.")] = False,
    data: Annotated[Path, Parameter(help="Folder that holds the suite's data sets.")] = Path("data"),
    ood: Annotated[
        list[str] | None, Parameter(help="With a folder: an OOD set as name=folder; repeat for more.")
    ] = None,
    outliers: Annotated[
        Path | None, Parameter(help="With a folder: auxiliary outliers, for the methods that learn from them.")
    ] = None,
    backbone: Annotated[
        str, Parameter(help="Backbone of photos: a timm model, or KIND:NAME for another library.")
    ] = "tf_efficientnet_lite0",
    image_size: Annotated[Whole | None, Parameter(help="Side of the backbone's input, in pixels.")] = None,
    network: Annotated[
        str | None, Parameter(help="Network that cifar10 trains from scratch: wrn-DEPTH-WIDEN or resnet18.")
    ] = None,
    hidden: Annotated[
        Whole, Parameter(help="Hidden units of heads on features.", validator=validators.Number(gte=8, lte=4096))
    ] = 128,
    cache: Annotated[Path, Parameter(help="Folder where features are cached.")] = Path(".oodguard-cache"),
    devices: Annotated[Whole, Parameter(help="GPUs or CPU processes; 0: all GPUs, or one CPU process.")] = 0,
    threads: Annotated[Whole, Parameter(help="CPU threads; 0: all.")] = 0,
    list_: Annotated[bool, Parameter(name="--list", help="List suites and methods, and stop.")] = False,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> None:
    """Train and compare methods on suites of data sets.

    The methods are those of the five papers, and the usual baselines. Writes results.json (one record for each
    method, seed, OOD set and score), results.md (mean and standard deviation over seeds) and report.html (plots)
    into --out. Run the same command again to continue an interrupted comparison. Thresholds are calibrated on ID
    calibration images alone.

    Example: oodguard bench produce --data data --out results/produce --methods single,ldr,fused --quick
    """
    for path in (outliers,) if outliers is not None else ():
        expect(path, Artefact.IMAGES, flag="--outliers")
    expect_sets(ood or ())
    if suite is not None and (Path(suite).exists() or "/" in suite):
        expect(Path(suite), Artefact.PHOTOS)
    seeds = (1 if quick else 3) if seeds is None else seeds
    if not list_ and (suite is None or out is None):
        raise InputError("bench needs a suite and --out FOLDER; --list names suites and methods")
    if seeds < 1:
        raise InputError("--seeds must be at least 1")
    from oodguard.bench.arena import BenchSetting
    from oodguard.bench.results.report import write_report
    from oodguard.bench.results.table import to_markdown
    from oodguard.bench.runner import run_bench
    from oodguard.bench.suites.catalogue import suite_of
    from oodguard.training.compute import start_compute

    console = Terminal()
    if list_:
        _list(console)
        return
    assert suite is not None
    assert out is not None
    chosen_suite = suite_of(suite, ood=ood or [], outliers=outliers)
    setting = BenchSetting(
        data=data,
        cache=cache,
        quick=quick,
        threads=threads,
        backbone=backbone,
        image_size=image_size,
        hidden=hidden,
        network=network,
    )
    names = [name.strip() for name in methods.split(",") if name.strip()]
    options = {"out": out, "seeds": seeds, "methods": ",".join(names), "outliers": outliers}
    compute = start_compute(devices)
    with reporter(output) as report:
        results = run_bench(
            chosen_suite,
            setting,
            out,
            methods=names,
            seeds=seeds,
            compute=compute,
            command=_command(suite, setting, ood or [], options),
            report=report,
        )
    if compute.is_global_zero:
        written = write_report(results, out)
        console.print(Markdown(to_markdown(results)))
        console.print(f"saved: {', '.join(map(str, written))}", highlight=False)


def _list(console: Terminal) -> None:
    from oodguard.bench.methods.catalogue import METHODS
    from oodguard.bench.suites.catalogue import SUITES

    for title, entries in (("suites", SUITES), ("methods", METHODS)):
        table = Table("name", "what it is", title=title)
        for name, entry in entries.items():
            table.add_row(name, entry.summary)
        console.print(table)


def _command(suite: str, setting: BenchSetting, ood: list[str], options: dict[str, object]) -> str:
    """The command line that repeats this comparison, wherever its options came from. Empty options are left out."""
    given = {
        **options,
        "data": setting.data,
        "backbone": setting.backbone,
        "image-size": setting.image_size,
        "network": setting.network,
        "hidden": setting.hidden,
    }
    words = ["oodguard", "bench", suite]
    for name, value in given.items():
        if value not in (None, ""):
            words += [f"--{name}", str(value)]
    for pair in ood:
        words += ["--ood", pair]
    return shlex.join([*words, *(["--quick"] if setting.quick else [])])

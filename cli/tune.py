"""`oodguard tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from oodguard.cli.artefacts import Artefact
from oodguard.cli.inputs import expect
from oodguard.cli.output import Output
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.server.engines.registry import LOCAL, installed_engines, one_of


def tune(
    bundle: Annotated[Path, Parameter(help="Bundle folder written by export.")],
    *,
    out: Annotated[Path | None, Parameter(help="Record to write; default: tuning.json in the bundle.")] = None,
    seconds: Annotated[float, Parameter(help="Seconds to spend on measuring.")] = 30.0,
    engine: Annotated[
        str | None, Parameter(help=f"Try this engine only: {one_of(LOCAL)}; default: all installed.")
    ] = None,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> None:
    """Find the fastest way to run a bundle on this machine.

    The command measures engines, inferences at once, threads and batch sizes on the bundle's golden images and records
    the fastest combination. `oodguard serve` uses the record as long as the graph and the machine are the same. Run the
    command on the machine that will serve, while nothing else runs there.

    Example: oodguard tune bundles/photos
    """
    if not 0 < seconds <= 3600:
        raise InputError("--seconds must be above 0 and at most 3600")
    expect(bundle, Artefact.BUNDLE)
    from oodguard.core.allowance import cores
    from oodguard.server.search import search
    from oodguard.server.tuning import TUNING_FILE

    with reporter(output) as report:
        record = search(
            bundle,
            engines=(engine,) if engine else installed_engines(),
            seconds=seconds,
            progress=lambda done, total: report.progress("measuring", done, total),
        )
    table = Table(title=f"images per second on {cores()} cores; engine: sessions x threads", title_justify="left")
    table.add_column("engine", no_wrap=True)
    batches = sorted({trial.max_batch for trial in record.trials})
    for batch in batches:
        table.add_column(f"batch {batch}", justify="right")
    table.add_column("1 image, ms", justify="right")
    splits = dict.fromkeys((t.engine, t.sessions, t.threads) for t in record.trials)
    for split in splits:
        row = [t for t in record.trials if (t.engine, t.sessions, t.threads) == split]
        cells = {t.max_batch: f"{t.images_per_second:.0f}" for t in row}
        name, sessions, threads = split
        measured = (cells.get(batch, "") for batch in batches)
        table.add_row(f"{name} {sessions} x {threads}", *measured, f"{row[0].single_ms:.1f}")
    console = Terminal()
    console.print(table)
    best = record.best
    console.print(
        f"best: {best.engine}, {best.sessions} sessions of {best.threads} threads, batches of at most {best.max_batch}"
    )
    path = out or bundle / TUNING_FILE
    try:
        path.write_text(record.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(f"{path} cannot be written ({error.strerror}); choose another --out") from None
    console.print(f"recorded in {path}; next: oodguard serve {bundle}{f' --tuning {out}' if out else ''}")

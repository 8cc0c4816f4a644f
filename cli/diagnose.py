"""`oodguard diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from oodguard.cli.artefacts import Artefact
from oodguard.cli.inputs import expect, expect_photos
from oodguard.cli.output import Output
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.core.collusion import CollusionReport


def diagnose(
    run: Annotated[Path, Parameter(help="Run folder written by train.")],
    *,
    data: Annotated[
        Path | None, Parameter(help="Where the photos of the run are now; default: where they were at training.")
    ] = None,
    json: Annotated[bool, Parameter(help="Print JSON for programs.")] = False,
    fail_on_collusion: Annotated[bool, Parameter(help="Exit with code 4 if the members collude.")] = False,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> int:
    """Say whether the members of a run's ensemble collude.

    Members that were trained jointly can shift their outputs in opposite directions: they look diverse, but their
    average does not change. The command measures this on the run's test photos, which no member was trained on.

    Example: oodguard diagnose runs/photos
    """
    expect(run, Artefact.RUN)
    if data is not None:
        expect_photos(data, flag="--data")
    from oodguard.evaluation.diagnosis import diagnose_run

    with reporter(output) as report:
        found = diagnose_run(run, data=data, report=report)
    if json:
        print(found.model_dump_json(indent=1))
    else:
        _print(found)
    return 4 if fail_on_collusion and found.colluding else 0


def _print(found: CollusionReport) -> None:
    accuracies = ", ".join(f"{100 * a:.1f}" for a in found.member_accuracy)
    gap = "unknown" if found.generalisation_gap is None else f"{found.generalisation_gap:.3f} nats"
    table = Table("measure", "value", "meaning", title=f"{found.members} members, on test photos")
    for row in (
        ("accuracy", f"{100 * found.ensemble_accuracy:.1f} %", f"members: {accuracies}"),
        ("ensemble's loss", f"{found.ensemble_loss:.3f} nats", f"members' mean: {found.member_loss:.3f}"),
        ("diversity", f"{found.diversity:.3f} nats", f"{found.relative_diversity:.2f} times the ensemble's loss"),
        ("constant bias", f"{found.bias_share:.0%}", "share of the diversity that constant biases explain"),
        *(
            ("codependence", f"{rise:+.1%}", f"change of the loss without {float(drop):.0%} of the members")
            for drop, rise in found.codependence.items()
        ),
        ("generalisation gap", gap, "loss on test photos minus loss on training photos"),
    ):
        table.add_row(*row)
    console = Terminal()
    console.print(table)
    console.print(found.verdict, style="bold red" if found.colluding else "bold green")

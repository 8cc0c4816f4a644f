"""`oodguard diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from oodguard.cli.progress import TerminalReporter


def diagnose(
    run: Annotated[Path, Parameter(help="Run folder written by train.")],
    *,
    json: Annotated[bool, Parameter(help="Print JSON for programs.")] = False,
    fail_on_collusion: Annotated[bool, Parameter(help="Exit with 4 when the members collude.")] = False,
) -> int:
    """Say whether the members of a run's ensemble stand on their own or collude.

    Members that were trained jointly can shift their outputs in opposite directions: they look diverse, and the
    ensemble does not notice. Measured on the run's test photos, which it was not trained on.

    Example: oodguard diagnose runs/photos
    """
    from oodguard.evaluation.diagnosis import diagnose_run

    with TerminalReporter() as report:
        found = diagnose_run(run, report=report)
    console = Console()
    if json:
        print(found.model_dump_json(indent=1))
    else:
        table = Table("what", "value", "what it says", title=f"{found.members} members, on images not trained on")
        accuracies = ", ".join(f"{100 * a:.1f}" for a in found.member_accuracy)
        gap = "unknown" if found.generalisation_gap is None else f"{found.generalisation_gap:.3f} nats"
        for row in (
            ("accuracy", f"{100 * found.ensemble_accuracy:.1f} %", f"members: {accuracies}"),
            ("ensemble's loss", f"{found.ensemble_loss:.3f} nats", f"members' mean: {found.member_loss:.3f}"),
            ("diversity", f"{found.diversity:.3f} nats", f"{found.relative_diversity:.2f} times the ensemble's loss"),
            ("constant bias", f"{found.bias_share:.0%}", "of the diversity goes when it is taken off"),
            *(
                ("codependence", f"{rise:+.1%}", f"loss, when {float(drop):.0%} of the members are dropped")
                for drop, rise in found.codependence.items()
            ),
            ("generalisation gap", gap, "loss here less loss on training photos"),
        ):
            table.add_row(*row)
        console.print(table)
        console.print(found.verdict, style="bold red" if found.colluding else "bold green")
    return 4 if fail_on_collusion and found.colluding else 0

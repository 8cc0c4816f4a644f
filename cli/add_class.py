"""`oodguard add-class`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from oodguard.cli.progress import TerminalReporter
from oodguard.cli.terminal import Terminal

if TYPE_CHECKING:
    from oodguard.export.add_class import ClassAdded

# Above so many photos, a training learns more of them than a row of each head can.
MANY = 50
# Files that are named one by one; of more, their number.
NAMED = 10


def add_class(
    bundle: Annotated[Path, Parameter(help="Bundle folder written by export.")],
    name: Annotated[str, Parameter(help="Name of the new class.")],
    photos: Annotated[Path, Parameter(help="Folder of 10 to 50 photos of it.")],
    *,
    out: Annotated[Path, Parameter(help="Bundle folder to write.")],
    data: Annotated[
        Path | None,
        Parameter(
            help="The labelled photos of the run: those that trained nothing set the thresholds anew and say what the "
            "old classes lose; default: thresholds stay, and the bank's training photos say it, which flatters."
        ),
    ] = None,
    model_version: Annotated[
        str | None, Parameter(help="Version of the new bundle; default: the next whole number.")
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", help="Print one JSON object.", negative="")] = False,
) -> None:
    """Add a class to a bundle from 10 to 50 photos.

    Nothing is trained, and the feature stays. Each head gets a row for the class, the density its mean, and the bank
    its photos. The new bundle is written only if its graph answers as PyTorch does, and if most of the photos, each
    judged without itself, are accepted with their label.

    Example: oodguard add-class bundles/photos quince quince --out bundles/photos-2 --data photos
    """
    from oodguard.export.add_class import add_class as run

    with TerminalReporter() as report:
        found = run(bundle, name, photos, out=out, data=data, version=model_version, report=report)
    console = Terminal(soft_wrap=True, highlight=False)
    if as_json:
        console.print(json.dumps(_record(found)), markup=False)
        return
    _print(console, bundle, found)


def _record(found: ClassAdded) -> dict[str, object]:
    manifest = found.manifest
    return {
        "out": str(found.out),
        "name": manifest.name,
        "version": manifest.version,
        "class": manifest.added[-1].model_dump(),
        "right": found.right.model_dump(),
        "passing": found.passing.model_dump(),
        "flagged_before": found.before.model_dump(),
        "measured_on": "photos that trained nothing" if found.measured else "training photos of the bank",
        "accuracy": found.accuracy.model_dump(),
        "accepted": found.accepted.model_dump() if found.accepted else None,
        "calibrated": found.calibrated,
        "copies": found.photos.copies,
        "unreadable": found.photos.unreadable,
    }


def _print(console: Terminal, bundle: Path, found: ClassAdded) -> None:
    manifest, added = found.manifest, found.manifest.added[-1]
    console.print(
        f"[bold]{escape(str(found.out))}[/]: {manifest.name} version {manifest.version}, {len(manifest.classes)} "
        f"classes; {escape(added.name)} from {added.photos} photos"
    )
    table = Table("", "photos", "before, %", "after, %", "change, points (95 %)", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    kind = "" if found.measured else ", training photos"
    for title, part in ((f"accuracy, old classes{kind}", found.accuracy), ("accepted, old classes", found.accepted)):
        if part is not None:
            low, high = 100 * part.change.low, 100 * part.change.high
            table.add_row(
                title,
                f"{part.before.of:,}",
                f"{100 * part.before.share:.1f}",
                f"{100 * part.after.share:.1f}",
                f"{100 * part.change.change:+.1f} ({low:+.1f} to {high:+.1f})",
            )
    before, right, passing = found.before, found.right, found.passing
    new = escape(added.name)
    table.add_row(f"accepted, {new}", f"{before.of}", f"{100 * (1 - before.share):.1f}", "", "")
    table.add_row(f"right label, {new}", f"{right.of}", "", f"{100 * right.share:.1f}", "")
    table.add_row(f"accepted with it, {new}", f"{passing.of}", "", f"{100 * passing.share:.1f}", "")
    console.print(table)
    console.print(
        f"each photo of {new} was judged by heads that did not see it; {100 * passing.low:.0f} to "
        f"{100 * passing.high:.0f} % of such photos are accepted with their label (95 % interval)"
    )
    console.print(_thresholds(found))
    graph = "the graph" if manifest.precision == "fp32" else f"the {manifest.precision} graph, behind its first layer,"
    console.print(
        f"gate: {graph} answers as PyTorch does, image by image and in batches; scores within {added.max_error:.1e}"
    )
    for title, lines in (("copies, left out", found.photos.copies), ("could not be used", found.photos.unreadable)):
        if lines:
            console.print(f"{title}: {len(lines):,}")
            for line in lines[:NAMED]:
                console.print(f"  {line}", markup=False)
    if added.photos > MANY:
        console.print(f"{added.photos} photos are enough to train with: a training learns more from so many")
    console.print(f"next: oodguard compare {bundle} {found.out} --test photos/test", markup=False)


def _thresholds(found: ClassAdded) -> str:
    if found.calibrated:
        return (
            f"thresholds set anew on {found.calibrated:,} photos of the old classes that trained nothing: what targets "
            "promise holds for the old classes"
        )
    return (
        "thresholds stay as they were: which share of photos they accept now was not measured, so no target is "
        "promised; give --data, or recalibrate the new bundle"
    )

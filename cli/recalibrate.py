"""`oodguard recalibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from oodguard.cli.artefacts import Artefact
from oodguard.cli.groups import grouped
from oodguard.cli.inputs import SOURCES, expect
from oodguard.cli.output import Output
from oodguard.cli.positional import positional
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.server.recalibration import Recalibrated, RecalibrateOptions
from oodguard.server.recalibration import recalibrate as run

# Files that are named one by one; of more, their number.
NAMED = 10

positional(RecalibrateOptions, "bundle")
grouped(
    RecalibrateOptions,
    ("bundle", "images", "source", "out", "model_version", "dry_run"),
    {
        "Speed": ("engine", "device", "tuning", "sessions", "threads", "max_batch"),
        "Limits": ("max_image_bytes", "max_pixels", "max_decode_work"),
    },
)


def recalibrate(
    options: Annotated[RecalibrateOptions, Parameter(name="*")],
    *,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> None:
    """Set a bundle's thresholds anew from trusted photos.

    Trusted photos are known to be in distribution; no training is done, and no old photo is needed. The command
    runs the photos through the bundle's graph and writes a new version of the bundle: other thresholds and
    percentiles, the same graph. Without --out the new version takes the old one's place at once, and a server that
    serves the bundle reloads it. The photos must be as they come from where the guard is used, and different ones.

    Example: oodguard recalibrate bundles/photos --images trusted

    Example: oodguard recalibrate bundles/photos --images cam3 --source cam3
    """
    expect(options.bundle, Artefact.BUNDLE)
    for source in options.images:
        expect(Path(source), Artefact.IMAGES, flag="--images", more=SOURCES)
    with reporter(output) as report:
        found = run(options, progress=lambda done, total: report.progress("photos", done, total))
    _print(Terminal(soft_wrap=True, highlight=False), options, found)


def _print(console: Terminal, options: RecalibrateOptions, found: Recalibrated) -> None:
    manifest, photos = found.manifest, found.photos
    accept, old = manifest.targets.accept, manifest.recalibrations[-1].from_version
    what = "thresholds" if options.source is None else f"thresholds of the source {options.source}"
    console.print(
        f"[bold]{escape(str(found.out))}[/]: {manifest.name} version {manifest.version}, {what} from {len(photos):,} "
        "photos" + (" (dry run: nothing was written)" if options.dry_run else "")
    )
    low, high = found.accepted_interval
    console.print(
        f"version {old} accepted {found.accepted:.1%} of them at accept {accept:g} (90 % interval {low:.1%} to "
        f"{high:.1%})"
    )
    table = Table("score", "old threshold", "new threshold", "above the old one", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for one in found.changes:
        table.add_row(one.name, f"{one.before:.4g}", f"{one.after:.4g}", f"{one.flagged:.1%}")
    console.print(table)
    low, high = found.kept
    confident = "enough" if found.confident else "too few"
    console.print(
        f"so many photos keep {accept:g} on average, {low:.1%} to {high:.1%} in 90 % of draws; they promise "
        f"{found.calibration.max_accept:.4f} at most, and are {confident} for a confidence of 0.9"
    )
    console.print(_labels(found))
    if photos.copies:
        console.print(f"copies of other photos, left out: {photos.copies:,}")
    if photos.unreadable:
        console.print(f"could not be used: {len(photos.unreadable):,}")
        for name, why in photos.unreadable[:NAMED]:
            console.print(f"  {name}: {why}", markup=False)
    if found.outdated:
        console.print(
            "the standalone graph is left out, as it has the old thresholds inside: export the run again for one"
        )
    if found.flagged:
        console.print(f"golden images that are now out of distribution: {escape(', '.join(found.flagged))}")
    if found.dropped:
        console.print(f"golden images on the edge of the new threshold, left out: {escape(', '.join(found.dropped))}")


def _labels(found: Recalibrated) -> str:
    if found.calibration.answering is None:
        return "the bundle has no label sets, so labels change nothing"
    if found.photos.targets is not None:
        return "every photo is in a folder named after its class: label sets and decisions follow these photos, too"
    return (
        f"labels of the photos are not known ({escape(found.photos.homeless or '')} is in no folder named after a "
        "class): probabilities, label sets and decisions stay as they were fitted"
    )

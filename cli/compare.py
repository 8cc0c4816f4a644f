"""`oodguard compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from oodguard.cli.artefacts import Artefact
from oodguard.cli.inputs import expect, expect_photos, expect_sets
from oodguard.cli.output import Output
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.cli.whole import Whole
from oodguard.core.errors import InputError
from oodguard.core.manifest import MANIFEST_FILE

if TYPE_CHECKING:
    from oodguard.evaluation.compared import Compared


def compare(
    old: Annotated[Path, Parameter(help="Bundle or run to compare with, such as the one in service.")],
    new: Annotated[Path, Parameter(help="Bundle or run that is to take its place.")],
    *,
    test: Annotated[
        Path | None, Parameter(help="Labelled photos that trained neither, in class folders (or in test/ of these).")
    ] = None,
    ood: Annotated[list[str] | None, Parameter(help="An OOD set as name=folder; repeat for more sets.")] = None,
    traffic: Annotated[
        Path | None, Parameter(help="Photos without labels, such as flagged ones: only what changes is counted.")
    ] = None,
    accept: Annotated[
        float | None, Parameter(help="Target acceptance of both guards; default: each one's own.")
    ] = None,
    out: Annotated[Path, Parameter(help="Folder to write comparison.html and comparison.json into.")] = Path(
        "comparison"
    ),
    cache: Annotated[Path, Parameter(help="Folder of cached features, as of train.")] = Path(".oodguard-cache"),
    rounds: Annotated[
        Whole | None, Parameter(help="(bundles) Also time the graphs, so many times at batch 1; 200 is plenty.")
    ] = None,
    threads: Annotated[
        list[int] | None, Parameter(help="(bundles) Threads to time the graphs with; repeat for more; default: 1.")
    ] = None,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> None:
    """Compare two guards, bundles or runs, on the same photos.

    The command prints one sentence of verdict, accuracy, acceptance and what is let in of each OOD set, with intervals
    of the differences for the same photos, and which share of labels and verdicts changes; comparison.html shows the
    photos that change.

    Example: oodguard compare bundles/photos bundles/photos-2 --test photos/test --ood packages=other/packages
    """
    for guard in (old, new):
        expect(guard, Artefact.BUNDLE, Artefact.RUN)
    if test is not None:
        expect_photos(test, flag="--test")
    expect_sets(ood or ())
    if traffic is not None:
        expect(traffic, Artefact.IMAGES, flag="--traffic")
    console = Terminal(soft_wrap=True, highlight=False)
    if rounds is not None:
        _print_speeds(console, old, new, rounds, threads or [1])
        if test is None:
            return
    elif threads:
        raise InputError("--threads is for timing; add --rounds")
    if test is None:
        raise InputError("--test is missing: name a folder of labelled photos that trained neither guard")
    from oodguard.evaluation.compared import HTML_FILE, JSON_FILE
    from oodguard.evaluation.evaluate import parse_sets
    from oodguard.export.compare import compare as run

    with reporter(output) as report:
        found = run(
            old,
            new,
            test=test,
            ood=parse_sets(ood or []),
            traffic=traffic,
            accept=accept,
            cache=cache,
            out=out,
            report=report,
        )
    _print(console, found)
    console.print(f"saved: {escape(str(out / HTML_FILE))} (with the photos that change) and {JSON_FILE}")


def _print(console: Terminal, found: Compared) -> None:
    from oodguard.evaluation.compared import change_points

    console.print(f"[bold]{escape(found.sentence)}[/]")
    table = Table("", "photos", "old, %", "new, %", "change, points", "p (McNemar)", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    shares = {
        "accuracy": found.accuracy,
        "accepted": found.acceptance,
        **{f"let in of {name}": part for name, part in found.let_in.items()},
        "accuracy, classes only new knows": found.added,
        "accuracy, classes only old knows": found.removed,
    }
    for name, part in shares.items():
        if part is not None:
            table.add_row(
                escape(name),
                f"{part.before.of:,}",
                f"{100 * part.before.share:.1f}",
                f"{100 * part.after.share:.1f}",
                change_points(part),
                f"{part.change.p:.2g}",
            )
    console.print(table)
    for name, changed in found.changed.items():
        console.print(
            f"of {changed.labels.of:,} {escape(name)}, {100 * changed.labels.share:.1f} % get another label and "
            f"{100 * changed.verdicts.share:.1f} % another verdict"
        )
    for path in found.unreadable:
        console.print(f"could not be read: {escape(path)}")


def _print_speeds(console: Terminal, old: Path, new: Path, rounds: int, threads: list[int]) -> None:
    from oodguard.export.speed import speeds

    if rounds < 1 or min(threads) < 1:
        raise InputError("--rounds and --threads must be at least 1")
    for folder in (old, new):
        if not (folder / MANIFEST_FILE).is_file():
            raise InputError(f"{folder} is not a bundle, and --rounds times graphs; export it first")
    table = Table("threads", "batch", "old, ms per image", "new, ms per image", "times as fast", box=None)
    for column in table.columns:
        column.justify = "right"
    for one in speeds((old, new), rounds=rounds, threads=threads):
        first, second = one.milliseconds
        table.add_row(str(one.threads), str(one.batch), f"{first:.2f}", f"{second:.2f}", f"{one.faster[1]:.2f}")
    console.print(table)

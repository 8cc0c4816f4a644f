"""`oodguard drift`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from oodguard.cli.artefacts import Artefact
from oodguard.cli.inputs import expect
from oodguard.cli.terminal import Terminal
from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.resemblance import accuracy_sentence

if TYPE_CHECKING:
    from oodguard.server.offline.drift_report import DriftPart

DRIFTED = 1


def drift(
    results: Annotated[
        list[Path], Parameter(help="Results of oodguard score or predict --csv: .parquet, .csv or .jsonl.")
    ],
    *,
    bundle: Annotated[Path, Parameter(help="Bundle folder that judged the images.")],
    times: Annotated[
        str | None,
        Parameter(
            help="Column that says when an image was taken (date, timestamp or seconds since 1970); default: the date "
            "in its path, such as 2026-11-28 or 20261128, where there is one."
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        Parameter(help="Source of the bundle whose calibration judged; default: what the results say, else its own."),
    ] = None,
    json: Annotated[bool, Parameter(help="Print everything as JSON.", negative="")] = False,
    fail_on_drift: Annotated[
        bool, Parameter(help="Exit with 1 if the images are not like the calibration photos.", negative="")
    ] = False,
) -> int:
    """Say whether judged images are still like calibration photos.

    It needs neither labels nor a metrics server. The command compares the share flagged with what was to be
    expected of so many images, tests whether their percentiles are uniform, and estimates from the probabilities
    how many labels are right: over all images, by the class that they were given, and by week.

    Example: oodguard drift results.parquet --bundle bundles/photos
    """
    for path in results:
        expect(path, Artefact.RESULTS)
    expect(bundle, Artefact.BUNDLE, flag="--bundle")
    try:
        from oodguard.server.offline.drift_report import NO_WEEK
        from oodguard.server.offline.drift_report import drift as run
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise EnvironmentProblem("oodguard drift needs pyarrow, which the extra score brings") from None
    if not results:
        raise InputError("name a result that oodguard score wrote")
    found = run(results, bundle=bundle, times=times, calibration=calibration)
    console = Terminal(soft_wrap=True, highlight=False)
    if json:
        print(found.model_dump_json(indent=1))
        return DRIFTED if fail_on_drift and found.drifted else 0
    failed = f", {found.failed:,} more could not be used" if found.failed else ""
    console.print(f"[bold]{escape(found.name)} version {escape(found.version)}[/]: {found.images:,} images{failed}")
    console.print(found.sentence)
    console.print(
        f"percentiles are {'' if found.percentiles.p >= 0.05 else 'not '}uniform: largest distance "
        f"{found.percentiles.distance:.3f}, p = {found.percentiles.p:.2g} (Kolmogorov-Smirnov)"
    )
    if found.whole.accuracy is not None:
        console.print(accuracy_sentence(found.whole.accuracy))
    console.print(_table("by class", found.by_class))
    if set(found.by_week) - {NO_WEEK}:
        console.print(_table("by week", found.by_week))
    else:
        console.print("by week: nothing says when the images were taken; name a column with --times")
    return DRIFTED if fail_on_drift and found.drifted else 0


def _table(title: str, parts: Mapping[str, DriftPart]) -> Table:
    table = Table(title, "images", "flagged, %", "expected, %", "", "labels right, % (estimate)", box=None)
    for column in table.columns[1:4]:
        column.justify = "right"
    for name, part in parts.items():
        flagged, accuracy = part.flagged, part.accuracy
        table.add_row(
            escape(name),
            f"{flagged.images:,}",
            f"{100 * flagged.share:.1f} ({100 * flagged.low:.1f} to {100 * flagged.high:.1f})",
            f"{100 * flagged.expected_low:.1f} to {100 * flagged.expected_high:.1f}",
            "" if flagged.word == "as expected" else flagged.word,
            "-"
            if accuracy is None
            else f"{100 * accuracy.accuracy:.1f} ({100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})",
        )
    return table

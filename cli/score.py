"""`oodguard score`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import TimeRemainingColumn

from oodguard.cli.progress import Bars
from oodguard.server.offline.options import ScoreOptions

if TYPE_CHECKING:
    from oodguard.server.offline.scorer import Tally

SOME_FAILED = 1
INTERRUPTED = 130


def score(options: Annotated[ScoreOptions, Parameter(name="*")]) -> int:
    """Score many images without a server: BUNDLE SOURCE --out results.parquet.

    One row an image: path, member, label, probability, is_ood, the fused score, every score with its flag; or an error
    code and message. Rows are in the order of the source. Nothing is unpacked to disk, nothing is fetched. An
    interrupted run goes on when the same command is given again.

    Exit code: 0 all scored, 1 some images could not be used (their rows say why), 2 bad input, 3 the machine is in the
    way.

    Example: oodguard score bundles/photos some/folder --out results.parquet
    """
    from oodguard.core.errors import EnvironmentProblem

    try:
        from oodguard.server.offline.job import score as run
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise EnvironmentProblem("oodguard score needs pyarrow: pip install 'oodguard[score]'") from None
    try:
        with _Bar() as bar:
            summary = run(options, progress=bar)
    except KeyboardInterrupt:
        Console(stderr=True, soft_wrap=True).print(
            "[bold red]interrupted:[/] what is finished is kept; the same command goes on from there", highlight=False
        )
        return INTERRUPTED
    console = Console(soft_wrap=True, highlight=False)
    verdicts = summary.images - summary.failed
    share = f"{summary.flagged / verdicts:.1%} flagged" if verdicts else "none scored"
    console.print(f"[bold]{options.out}[/]: {summary.images:,} images, {share} at accept {summary.accept:g}")
    if summary.failed:
        codes = ", ".join(f"{code} {count:,}" for code, count in sorted(summary.errors.items()))
        console.print(f"{summary.failed:,} could not be used: {codes}")
    if summary.skipped:
        console.print(f"other files, passed over: {summary.skipped:,}")
    if summary.seconds:
        rate = summary.scored / summary.seconds
        console.print(f"{summary.scored:,} scored in {summary.seconds:.1f} s: {rate:.0f} images/s ({summary.how})")
    return SOME_FAILED if summary.failed else 0


class _Bar(Bars):
    """One bar: images listed, then images scored, with the rate, the flagged and the errors."""

    def __init__(self) -> None:
        super().__init__(TimeRemainingColumn())
        self._task = self._bars.add_task("listing", total=None)
        self._flagged = 0
        self._failed = 0

    def listed(self, images: int) -> None:
        """Images were found."""
        self._bars.update(self._task, completed=images)

    def begun(self, images: int, finished: int) -> None:
        """All are known."""
        if finished:
            self._bars.console.print(f"going on: {finished:,} of {images:,} images are done", highlight=False)
        # Set anew, so that the time remaining is judged by this run's own rate.
        self._bars.reset(self._task, description="scoring", total=images, completed=finished)

    def scored(self, tally: Tally) -> None:
        """Some more are done."""
        self._flagged += tally.flagged
        self._failed += sum(tally.errors.values())
        text = f"scoring ({self._flagged:,} flagged, {self._failed:,} errors)"
        self._bars.update(self._task, advance=tally.images, description=text)

"""`oodguard score`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.progress import TimeRemainingColumn

from oodguard.cli.positional import positional
from oodguard.cli.progress import Bars
from oodguard.cli.terminal import Terminal
from oodguard.core.resemblance import accuracy_sentence, drift_sentence
from oodguard.core.verdict import Decision
from oodguard.server.offline.options import ScoreOptions

if TYPE_CHECKING:
    from oodguard.server.offline.job import Summary
    from oodguard.server.offline.scorer import ScoreTally

NOUNS = {Decision.ANSWER: "answers", Decision.UNSURE: "unsure", Decision.STRANGER: "strangers"}
SOME_FAILED = 1
INTERRUPTED = 130

positional(ScoreOptions, "bundle", "source", "out")


def score(options: Annotated[ScoreOptions, Parameter(name="*")]) -> int:
    """Score many images without a server: BUNDLE SOURCE --out results.parquet.

    The result has one row per image, in the order of the source: path, member, label, probability, decision, labels
    (the label set), is_ood, the fused score, threshold, percentile, and every score with its flag; or an error code and
    its detail. The command unpacks nothing to disk and fetches nothing. Give the same command again to continue an
    interrupted run.

    Exit code: 0 all scored, 1 some images could not be used (their rows say why), 2 bad input, 3 something is missing
    on this machine, 4 the engine does not answer as the bundle was exported, 130 interrupted.

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
        Terminal(stderr=True, soft_wrap=True).print(
            "[bold red]interrupted:[/] finished parts are kept; give the same command again to continue",
            highlight=False,
        )
        return INTERRUPTED
    console = Terminal(soft_wrap=True, highlight=False)
    console.print(f"[bold]{escape(str(options.out))}[/]: {summary.images:,} images, {_shares(summary)}")
    for sentence in _resemblance(summary):
        console.print(sentence)
    if summary.failed:
        codes = ", ".join(f"{code} {count:,}" for code, count in sorted(summary.errors.items()))
        console.print(f"{summary.failed:,} could not be used: {codes}")
    if summary.skipped:
        console.print(f"other files, passed over: {summary.skipped:,}")
    if summary.seconds:
        rate = summary.scored / summary.seconds
        console.print(f"{summary.scored:,} scored in {summary.seconds:.1f} s: {rate:.0f} images/s ({summary.how})")
    return SOME_FAILED if summary.failed else 0


def _resemblance(summary: Summary) -> Iterator[str]:
    """Whether the images are like the calibration photos, and which are strangers by a false discovery rate."""
    if summary.flagged is not None and summary.percentiles is not None:
        yield drift_sentence(summary.flagged, summary.percentiles)
    if summary.accuracy is not None:
        yield accuracy_sentence(summary.accuracy)
    found = summary.discoveries
    if found is None:
        return
    yield (
        f"{found.named:,} strangers at a false discovery rate of {found.rate:g} (p-value at most {found.cut:.4g})"
        if found.named
        else f"no image can be named a stranger at a false discovery rate of {found.rate:g}: of so many, "
        f"{found.fewest:,} must have the least p-value that the calibration photos allow, {found.least:.2g}"
    )


def _shares(summary: Summary) -> str:
    """How many images came to which decision, and by which targets."""
    judged = summary.images - summary.failed
    if not judged:
        return "none scored"
    shares = (f"{count / judged:.1%} {NOUNS[decision]}" for decision, count in summary.decisions.items())
    asked = (f"{name} {value:g}" for name, value in summary.targets if value is not None)
    return f"{', '.join(shares)} at {', '.join(asked)}"


class _Bar(Bars):
    """One bar: images listed, then images scored, with the number of flagged images and of errors."""

    def __init__(self) -> None:
        super().__init__(TimeRemainingColumn())
        self._task = self._bars.add_task("listing", total=None)
        self._flagged = 0
        self._failed = 0

    def listed(self, images: int) -> None:
        """Show how many images were found so far."""
        self._bars.update(self._task, completed=images)

    def begun(self, images: int, finished: int) -> None:
        """Start the bar of the scored images."""
        if finished:
            self._bars.console.print(f"continuing: {finished:,} of {images:,} images are done", highlight=False)
        # Reset, so that the time remaining follows from this run's own rate.
        self._bars.reset(self._task, description="scoring", total=images, completed=finished)

    def scored(self, tally: ScoreTally) -> None:
        """Advance the bar."""
        self._flagged += tally.flagged
        self._failed += sum(tally.errors.values())
        text = f"scoring ({self._flagged:,} flagged, {self._failed:,} errors)"
        self._bars.update(self._task, advance=tally.images, description=text)

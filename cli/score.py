"""`oodguard score`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape

from oodguard.cli.artefacts import Artefact
from oodguard.cli.groups import grouped
from oodguard.cli.inputs import SOURCES, expect
from oodguard.cli.output import Output, say_error
from oodguard.cli.positional import positional
from oodguard.cli.progress import Showing, reporter
from oodguard.cli.terminal import Terminal
from oodguard.core.codes import Code
from oodguard.core.errors import EnvironmentProblem
from oodguard.core.resemblance import accuracy_sentence, drift_sentence
from oodguard.core.verdict import Decision
from oodguard.server.offline.limits import LIMIT_FLAGS
from oodguard.server.offline.options import ScoreOptions
from oodguard.server.offline.skipped import most_first

if TYPE_CHECKING:
    from oodguard.server.offline.job import Summary
    from oodguard.server.offline.scorer import ScoreTally

NOUNS = {Decision.ANSWER: "answers", Decision.UNSURE: "unsure", Decision.STRANGER: "strangers"}
SOME_FAILED = 1
# Of an unsupported type that are shown, the most frequent first.
REASONS = 3
INTERRUPTED = 130

positional(ScoreOptions, "bundle", "source", "out")
grouped(
    ScoreOptions,
    ("bundle", "source", "out", "accept", "fdr", "explain", "overwrite", "restart"),
    {
        "Verdicts": ("calibration", "confidence", "coverage", "max_error"),
        "Speed": ("engine", "device", "tuning", "sessions", "threads", "batch", "workers", "part_size"),
        "Ray": ("ray", "ray_workers"),
        "Images": ("formats", "column"),
        "Limits": ("trust", "max_image_bytes", "max_pixels", "max_decode_work"),
    },
)


def score(
    options: Annotated[ScoreOptions, Parameter(name="*")],
    *,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> int:
    """Judge many images without a server.

    The result has one row per image, in the order of the source: path, member, label, probability, decision, labels
    (the label set), is_ood, the fused score, threshold, percentile, and every score with its flag; or an error code and
    its detail. The command unpacks nothing to disk and fetches nothing. Give the same command again to continue an
    interrupted run.

    Exit code: 0 all scored, 1 some images could not be used (their rows say why), 2 bad input, 3 something is missing
    on this machine, 4 the engine does not answer as the bundle was exported, 130 interrupted.

    Example: oodguard score bundles/photos some/folder --out results.parquet
    """
    expect(options.bundle, Artefact.BUNDLE)
    # A pattern is for the reader of the source, which expands it.
    if not set(options.source) & set("{}*?["):
        # Whether a Parquet file has images, its reader says.
        table = {Artefact.RESULTS, Artefact.TABLE} if options.source.lower().endswith(".parquet") else set()
        expect(Path(options.source), Artefact.IMAGES, more=SOURCES | table)
    try:
        from oodguard.server.offline.job import score as run
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise EnvironmentProblem("oodguard score needs pyarrow: pip install 'oodguard[score]'") from None
    try:
        with reporter(output) as report:
            summary = run(options, progress=_Bar(report))
    except KeyboardInterrupt:
        say_error("finished parts are kept; give the same command again to continue", title="interrupted")
        return INTERRUPTED
    console = Terminal(soft_wrap=True, highlight=False)
    console.print(f"[bold]{escape(str(options.out))}[/]: {summary.images:,} images, {_shares(summary)}")
    for sentence in _resemblance(summary):
        console.print(sentence)
    if summary.grey_levels is not None:
        console.print(f"warning: {summary.grey_levels.sentence}")
    if summary.failed:
        codes = ", ".join(f"{code} {count:,}" for code, count in sorted(summary.errors.items()))
        console.print(f"{summary.failed:,} could not be used: {codes}")
        for why, count in summary.unsupported.most_common(REASONS):
            console.print(f"{Code.UNSUPPORTED_TYPE}: {escape(why)} ({count:,})")
        if flags := ", ".join(flag for code, flag in LIMIT_FLAGS.items() if code in summary.errors):
            console.print(f"limits refused some of them; to use these, raise {flags}")
    if summary.passed:
        kinds = escape(most_first(summary.passed))
        console.print(f"other files, passed over: {sum(summary.passed.values()):,} ({kinds})")
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


class _Bar:
    """What a reporter gets of a job: images listed, then images scored, with the numbers of flags and of errors."""

    def __init__(self, report: Showing) -> None:
        self._report = report
        self._total = self._done = self._flagged = self._failed = 0

    def listed(self, images: int) -> None:
        """Show how many images were found so far."""
        self._report.progress("listing", images, 0)

    def begun(self, images: int, finished: int) -> None:
        """Begin to count the scored images."""
        if finished:
            self._report.note(f"continuing: {finished:,} of {images:,} images are done")
        self._total, self._done = images, finished
        self._report.progress("listing", images, images)
        self._report.progress("scoring", finished, images)

    def scored(self, tally: ScoreTally) -> None:
        """Count more images."""
        self._flagged += tally.flagged
        self._failed += sum(tally.errors.values())
        self._done += tally.images
        stage = f"scoring ({self._flagged:,} flagged, {self._failed:,} errors)"
        self._report.progress(stage, self._done, self._total)

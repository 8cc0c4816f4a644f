"""`oodguard evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markdown import Markdown

from oodguard.cli.artefacts import Artefact
from oodguard.cli.inputs import expect, expect_photos, expect_sets
from oodguard.cli.output import Output
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.cli.whole import Whole
from oodguard.core.errors import InputError


def evaluate(
    run: Annotated[Path, Parameter(help="Run folder written by train.")],
    *,
    ood: Annotated[list[str] | None, Parameter(help="An OOD set as name=folder; repeat for more sets.")] = None,
    accept: Annotated[float, Parameter(help="Target acceptance of ID images.")] = 0.95,
    leave_out: Annotated[
        Whole, Parameter(help="Also train without this many random classes, and report those as near-OOD.")
    ] = 0,
    draws: Annotated[Whole, Parameter(help="How often --leave-out draws classes and trains.")] = 3,
    repeats: Annotated[
        Whole, Parameter(help="Over how many trainings, with other seeds, to show the scatter; 1: this run alone.")
    ] = 1,
    shifts: Annotated[
        bool, Parameter(help="Also show what mild shifts of the test photos do: frames, thumbnails, JPEG, grey, light.")
    ] = False,
    data: Annotated[
        Path | None, Parameter(help="Where the photos of the run are now; default: where they were at training.")
    ] = None,
    out: Annotated[Path | None, Parameter(help="Folder to write; default: the run folder.")] = None,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> None:
    """Measure a run on its test photos and on OOD sets.

    The command prints the evaluation and saves it as evaluation.json and evaluation.md: by how much the guard is better
    or worse than thirty lines of scikit-learn; for every OOD set and score what is let in at the threshold, AUROC,
    FPR95 in both meanings and AUPR; accuracy; the realised acceptance; what is weak, and what to do about it.
    report.html adds plots and the images that diverge most and least.

    Example: oodguard evaluate runs/photos --ood clothes=data/clothes --leave-out 8
    """
    if leave_out < 0 or draws < 1 or repeats < 1:
        raise InputError("--leave-out must be at least 0, --draws and --repeats at least 1")
    expect(run, Artefact.RUN)
    expect_sets(ood or ())
    if data is not None:
        expect_photos(data, flag="--data")
    from oodguard.evaluation.evaluate import evaluate as run_evaluation
    from oodguard.evaluation.evaluate import parse_sets
    from oodguard.evaluation.evaluation import HTML_FILE, JSON_FILE, MARKDOWN_FILE
    from oodguard.evaluation.report.markdown import to_markdown

    sets = parse_sets(ood or [])
    with reporter(output) as report:
        found = run_evaluation(
            run,
            ood=sets,
            accept=accept,
            leave_out=leave_out,
            draws=draws,
            repeats=repeats,
            shifts=shifts,
            data=data,
            out=out,
            report=report,
        )
    console = Terminal(width=max(Terminal().width, 110))
    console.print(Markdown(to_markdown(found)))
    folder = run if out is None else out
    console.print(f"saved: {folder / JSON_FILE}, {folder / MARKDOWN_FILE} and {folder / HTML_FILE}", highlight=False)

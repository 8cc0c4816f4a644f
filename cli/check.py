"""`oodguard check`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from oodguard.cli.inputs import expect_photos
from oodguard.cli.output import Output
from oodguard.cli.progress import reporter
from oodguard.cli.terminal import Terminal
from oodguard.cli.whole import Whole
from oodguard.core.errors import EnvironmentProblem, InputError, QualityError
from oodguard.training.options import FolderOptions, TrainOptions
from oodguard.training.photos.kinds import Kind, parse_kinds

LIST, PAGE = "suspects.csv", "check.html"
DEFAULT = {name: field.default for name, field in TrainOptions.model_fields.items()}


def check(
    photos: Annotated[Path, Parameter(help="Photos as train takes them: a folder, a zip file, or 'digits'.")],
    *,
    out: Annotated[Path, Parameter(help="Folder to write suspects.csv and check.html to.")] = Path("check"),
    fail_on: Annotated[
        str,
        Parameter(
            help="Exit with code 4 if there are suspects of these kinds, separated by commas; 'copies': of the three "
            "kinds of copies; 'any': of any."
        ),
    ] = "",
    backbone: Annotated[str, Parameter(help="As in train; the same backbone shares the cached features.")] = DEFAULT[
        "backbone"
    ],
    weights: Annotated[str, Parameter(help="As in train.")] = DEFAULT["weights"],
    image_size: Annotated[Whole | None, Parameter(help="As in train.")] = None,
    seed: Annotated[Whole, Parameter(help="Seed of the division into parts that judge each other's labels.")] = 0,
    cache: Annotated[Path, Parameter(help="Folder in which to cache features and measurements.")] = DEFAULT["cache"],
    threads: Annotated[Whole, Parameter(help="CPU threads; 0: one per core.")] = 0,
    folders: Annotated[FolderOptions | None, Parameter(name="*")] = None,
    output: Annotated[Output | None, Parameter(name="*")] = None,
) -> int:
    """Check labelled photos before training.

    Finds wrong labels, copies, unreadable files and odd photos. Writes a list, suspects.csv, and a page with the
    pictures, check.html; changes nothing else. Look at the page, write anything into the column keep beside photos
    that are in order, and give the list to train --exclude. Another check into the same folder keeps what you
    wrote. The kinds of suspects are label, copy-across, copy, near-copy, unreadable, passed-over, blank, size,
    shape, dark, bright and blurred.

    Example: oodguard check photos --out check

    Example: oodguard check photos --fail-on copy-across,unreadable
    """
    try:
        failing = parse_kinds(fail_on)
    except ValueError as error:
        raise InputError(f"--fail-on: {error}") from None
    expect_photos(photos)
    from oodguard.evaluation.photo_page import findings, photo_page
    from oodguard.training.photos.check import check_photos
    from oodguard.training.photos.suspects import read_rows, to_csv, with_kept

    before = read_rows(out / LIST) if (out / LIST).is_file() else ()
    options = TrainOptions(
        data=photos,
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        seed=seed,
        cache=cache,
        threads=threads,
        **(folders or FolderOptions()).model_dump(),
    )
    with reporter(output) as report:
        found = check_photos(options, report=report)
    found = replace(found, suspects=with_kept(found.suspects, before))
    console = Terminal(soft_wrap=True)
    sizes = sorted(found.counts.values())
    console.print(
        f"{sum(sizes):,} photos in {len(sizes):,} classes of {sizes[0]:,} to {sizes[-1]:,}",
        highlight=False,
        markup=False,
    )
    for finding in findings(found):
        console.print(f"{finding.tone}: {finding.text}", highlight=False, markup=False)
    words = ["oodguard", "train", "--data", str(photos), "--exclude", str(out / LIST), "--out", f"runs/{photos.stem}"]
    command = shlex.join(words)
    page = photo_page(
        found, title=photos.name, commands=f"# look below, write into keep in {out / LIST}, then\n{command}"
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / LIST).write_text(to_csv(found.suspects), encoding="utf-8")
        (out / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(f"{out} cannot be written ({error.strerror}); choose another --out") from None
    console.print(f"look at {out / PAGE}; the list is {out / LIST}", highlight=False, markup=False)
    if found.waiting(*Kind):
        console.print(f"then: {command}", highlight=False, markup=False)
    if bad := found.waiting(*failing):
        raise QualityError(
            f"{len(bad):,} suspects of the kinds in --fail-on, the first: {bad[0].path} ({bad[0].reason}); "
            "mend them, or write into keep beside them"
        )
    return 0

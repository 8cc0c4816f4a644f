"""`evaluate`: what a run is worth, on its test split, on OOD sets, and on classes it never saw."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from oodguard.core.binomial import promised_acceptance
from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.core.scores import Family
from oodguard.core.targets import DEFAULT_ACCEPT
from oodguard.evaluation import trainings
from oodguard.evaluation.ablation import ablate
from oodguard.evaluation.answered import answered
from oodguard.evaluation.comparison import compare_baselines
from oodguard.evaluation.confusion import confusion_counts, confusions, recalls
from oodguard.evaluation.diversity import diversity
from oodguard.evaluation.evaluation import (
    HTML_FILE,
    JSON_FILE,
    MARKDOWN_FILE,
    DetectionTable,
    Evaluation,
    FusedParts,
    mean_table,
)
from oodguard.evaluation.evidence import FUSED, Evidence, MeasuredSet, gather, options_of
from oodguard.evaluation.extremes import ID, extremes
from oodguard.evaluation.operating import operating_points
from oodguard.evaluation.report.document import to_html
from oodguard.evaluation.report.markdown import to_markdown
from oodguard.evaluation.shifted import ShiftTable, shift_table
from oodguard.evaluation.threshold import baseline_points, deciding, score_points
from oodguard.evaluation.trainings import Repeats, unseen
from oodguard.pages.text import plain
from oodguard.training.metrics import calibration_error, detection, reliability, share
from oodguard.training.photos.again import photos_of_run
from oodguard.training.photos.labelled import Photo, Photos, load_unlabelled
from oodguard.training.progress import Reporter, Silent
from oodguard.training.record import RunRecord
from oodguard.training.run import load_run, versions
from oodguard.training.wrapped import wrapped_of

LEFT_OUT = "left-out classes"
MOST_PASSED_AS = 3


def evaluate(
    run_folder: Path,
    *,
    ood: Mapping[str, Path],
    accept: float = DEFAULT_ACCEPT,
    leave_out: int = 0,
    draws: int = 3,
    repeats: int = 1,
    shifts: bool = False,
    data: Path | None = None,
    out: Path | None = None,
    report: Reporter | None = None,
) -> Evaluation:
    """Evaluate a run on its test split and on OOD folders, beside the baselines.

    leave_out: also train without so many random classes, `draws` times. repeats: how many trainings to show the scatter
    over, this run among them. shifts: also ask about test photos after mild shifts. data: where the photos of the run
    are now; None: where they were.

    ```python
    found = evaluate(Path("runs/produce"), ood={"clothing": Path("data/clothing/test")})
    ```

    Writes `evaluation.json`, `evaluation.md` and `report.html` into `out` (None: the run folder). Raises `InputError`
    when a folder or a test photo of the run is missing. A run that was trained with
    `leave_out` is evaluated on its left-out classes as one more OOD set.
    """
    # A missing package is found out before the work, not after it.
    import matplotlib.figure  # noqa: F401

    report = report or Silent()
    command = _command(run_folder, ood, accept, leave_out, draws, repeats, shifts, data, out)
    run = load_run(run_folder)
    options = options_of(run.record)
    if data is not None:
        options = options.model_copy(update={"data": data})
    if run.record.classifier is not None and leave_out:
        raise InputError("--leave-out trains without some classes, and a wrapped classifier is trained elsewhere")
    photos = photos_of_run(run.record, run.division, options)
    given = {name: load_unlabelled(folder) for name, folder in ood.items()}

    def sets(photos: Photos, record: RunRecord) -> dict[str, tuple[Photo, ...]]:
        return {**given, **({LEFT_OUT: unseen(photos, record)} if options.leave_out else {})}

    try:
        run.record.calibration.thresholds(accept)
    except ValueError as error:
        raise InputError(str(error)) from None
    evidence = gather(run, photos, options, sets(photos, run.record), report)
    left_out = trainings.leave_out(options, count=leave_out, draws=draws, report=report) if leave_out else {}
    again = None
    if repeats > 1:
        again = trainings.repeat(
            evidence, options, sets, wrapped=wrapped_of(run, photos), count=repeats, accept=accept, report=report
        )
    result = examine(
        evidence,
        accept=accept,
        leave_out={name: _table(found, name, accept) for name, found in left_out.items()},
        repeats=again,
        shifts=shift_table(run, options, evidence, accept=accept, report=report) if shifts else None,
        command=command,
    )
    _write(run_folder if out is None else out, result, evidence)
    return result


def examine(
    evidence: Evidence,
    *,
    accept: float = DEFAULT_ACCEPT,
    leave_out: Mapping[str, DetectionTable] | None = None,
    repeats: Repeats | None = None,
    shifts: ShiftTable | None = None,
    command: str = "",
) -> Evaluation:
    """Every number of an evaluation, from what the guard said."""
    record, test, targets = evidence.record, evidence.test, evidence.targets
    answers, right = test.answers, evidence.right
    thresholds = _thresholds(record, accept)
    counts = confusion_counts(targets, answers.probabilities.argmax(1), len(record.classes))
    chances = record.calibration.chances(answers.probabilities)
    sets = {ID: test, **evidence.ood}
    tables = {name: _table(evidence, name, accept) for name in evidence.ood}
    fusion = record.calibration.fusion
    return Evaluation(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        run="" if record.name is None else f"{record.name} version {record.version}",
        data=plain(Path(str(record.options["data"])).name),
        command=command,
        versions={"oodguard": importlib.metadata.version("oodguard"), **versions()},
        seed=record.seed,
        wrapped=None if record.classifier is None else record.classifier.file,
        accept=accept,
        accuracy=share(right),
        member_accuracy=tuple(float(np.mean(votes == targets)) for votes in answers.votes),
        confidence=float(chances.max(1).mean()),
        calibration_error=calibration_error(chances, targets),
        reliability=reliability(chances, targets),
        recalls=recalls(counts, record.classes),
        confusions=confusions(counts, record.classes),
        wrong_flagged=None if right.all() else share(test.values[FUSED][~right] > thresholds[FUSED]),
        diversity=diversity(
            {name: measured.answers.votes for name, measured in sets.items()},
            targets,
            evidence.losses,
            {name: measured.values["pds"] for name, measured in sets.items()},
            classes=len(record.classes),
        ),
        calibration_images=record.calibration.samples,
        calibration_groups=record.calibration.independent,
        answered=answered(evidence, test.values[FUSED], record.targets.but(accept=accept)),
        acceptance={name: share(values <= thresholds[name]) for name, values in test.values.items()},
        thresholds=thresholds,
        promised=promised_acceptance(accept, record.calibration.independent, tested=len(test)),
        decided=deciding(record.calibration, answers, thresholds[FUSED]),
        fusion=FusedParts(
            shares={family: fusion.share(family) for family in Family},
            weights={name: fusion.weight(name) for name in fusion.scores},
            check=fusion.check,
        ),
        comparison=compare_baselines(
            evidence,
            {name: table.at_threshold[FUSED] for name, table in tables.items()},
            {name: table.baselines for name, table in tables.items()},
        ),
        operating_points=operating_points(evidence, accept),
        ood=tables,
        leave_out=dict(leave_out or {}),
        repeats=repeats,
        shifts=shifts,
        class_photos=dict(evidence.class_photos),
        faults=record.faults,
        leak={split: dict(found) for split, found in evidence.plain.leak.items()},
        extremes=extremes(evidence, thresholds[FUSED]),
    )


def _thresholds(record: RunRecord, accept: float) -> dict[str, float]:
    found = record.calibration.thresholds(accept)
    return {**{name.value: threshold for name, threshold in found.scores}, FUSED: found.fused}


def _table(evidence: Evidence, name: str, accept: float) -> DetectionTable:
    record, test, ood = evidence.record, evidence.test, evidence.ood[name]
    thresholds = _thresholds(record, accept)
    return DetectionTable(
        images=len(ood),
        at_threshold=score_points(evidence, name, thresholds),
        baselines=baseline_points(evidence, name, thresholds, accept),
        decided=deciding(record.calibration, ood.answers, thresholds[FUSED]),
        scores={key: detection(test.values[key], ood.values[key], thresholds[key]) for key in test.values},
        ablation=ablate(
            record.calibration,
            test=test.answers.scores,
            ood=ood.answers.scores,
            calibration_scores=evidence.calibration,
            accept=accept,
        ),
        passed_as=_passed_as(record, ood, thresholds[FUSED]),
    )


def _passed_as(record: RunRecord, ood: MeasuredSet, threshold: float) -> dict[str, int]:
    predicted = ood.answers.probabilities.argmax(1)[ood.values[FUSED] <= threshold]
    return {record.classes[place]: images for place, images in Counter(predicted.tolist()).most_common(MOST_PASSED_AS)}


def _command(
    run_folder: Path,
    ood: Mapping[str, Path],
    accept: float,
    leave_out: int,
    draws: int,
    repeats: int,
    shifts: bool,
    data: Path | None,
    out: Path | None,
) -> str:
    """The command line that does this evaluation, whatever file or variable an option really came from."""
    words = ["oodguard", "evaluate", str(run_folder)]
    for name, folder in ood.items():
        words += ["--ood", f"{name}={folder}"]
    words += ["--accept", f"{accept:g}"]
    if leave_out:
        words += ["--leave-out", str(leave_out), "--draws", str(draws)]
    if repeats > 1:
        words += ["--repeats", str(repeats)]
    if shifts:
        words.append("--shifts")
    if data is not None:
        words += ["--data", str(data)]
    if out is not None:
        words += ["--out", str(out)]
    return plain(shlex.join(words))


def _write(folder: Path, result: Evaluation, evidence: Evidence) -> None:
    texts = {
        JSON_FILE: result.model_dump_json(indent=1),
        MARKDOWN_FILE: plain(to_markdown(result)),
        HTML_FILE: to_html(result, evidence),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(f"{folder} cannot be written ({error.strerror})") from None


def parse_sets(pairs: Sequence[str]) -> dict[str, Path]:
    """`name=folder` pairs as a mapping. Raises `InputError` for anything else or a repeated name."""
    sets: dict[str, Path] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--ood takes name=folder; got {pair!r}")
        if plain(name) != name or name in (ID, LEFT_OUT):
            raise InputError(f"--ood: {name!r} cannot be the name of a set")
        if name in sets:
            raise InputError(f"--ood names {name} twice")
        sets[name] = Path(folder)
    return sets


__all__ = ["DetectionTable", "Evaluation", "evaluate", "examine", "mean_table", "options_of", "parse_sets"]

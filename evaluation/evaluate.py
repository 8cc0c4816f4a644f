"""`evaluate`: what a run is worth, on its test split, on OOD sets, and on classes it never saw."""

from __future__ import annotations

import importlib.metadata
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from oodguard.core.calibration import DEFAULT_ACCEPT
from oodguard.core.errors import EnvironmentProblem, InputError
from oodguard.evaluation.ablation import ablate
from oodguard.evaluation.confusion import confusion_counts, confusions, recalls
from oodguard.evaluation.diversity import diversity
from oodguard.evaluation.evaluation import HTML_FILE, JSON_FILE, MARKDOWN_FILE, DetectionTable, Evaluation, mean_table
from oodguard.evaluation.evidence import FUSED, Evidence, gather, options_of
from oodguard.evaluation.extremes import ID, extremes
from oodguard.evaluation.operating import operating_points
from oodguard.evaluation.report.document import to_html
from oodguard.evaluation.report.markdown import to_markdown
from oodguard.pages.text import plain
from oodguard.training.metrics import calibration_error, detection, promised_acceptance, reliability, share
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import Photo, Photos, load_photos, load_unlabelled
from oodguard.training.pipeline import train
from oodguard.training.progress import Reporter, Silent
from oodguard.training.record import RunRecord
from oodguard.training.run import load_run, versions

LEFT_OUT = "left-out classes"


def evaluate(
    run_folder: Path,
    *,
    ood: Mapping[str, Path],
    accept: float = DEFAULT_ACCEPT,
    leave_out: int = 0,
    draws: int = 3,
    out: Path | None = None,
    report: Reporter | None = None,
) -> Evaluation:
    """Evaluate a run on its test split and on OOD folders; optionally retrain without `leave_out` random classes.

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
    command = _command(run_folder, ood, accept, leave_out, draws, out)
    run = load_run(run_folder)
    options = options_of(run.record)
    photos = load_photos(options.data, options.cache)
    ood_sets = {name: load_unlabelled(folder) for name, folder in ood.items()}
    if options.leave_out:
        ood_sets[LEFT_OUT] = _unseen(photos, run.record)
    try:
        run.record.calibration.thresholds(accept)
    except ValueError as error:
        raise InputError(str(error)) from None
    evidence = gather(run, photos, options, ood_sets, report)
    left_out = _leave_out(options, leave_out, draws, accept, report) if leave_out else {}
    result = examine(evidence, accept=accept, leave_out=left_out, command=command)
    _write(run_folder if out is None else out, result, evidence)
    return result


def examine(
    evidence: Evidence,
    *,
    accept: float = DEFAULT_ACCEPT,
    leave_out: Mapping[str, DetectionTable] | None = None,
    command: str = "",
) -> Evaluation:
    """Every number of an evaluation, from what the guard said."""
    record, test, targets = evidence.record, evidence.test, evidence.targets
    answers, right = test.answers, evidence.right
    thresholds = _thresholds(record, accept)
    counts = confusion_counts(targets, answers.probabilities.argmax(1), len(record.classes))
    sets = {ID: test, **evidence.ood}
    return Evaluation(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        versions={"oodguard": importlib.metadata.version("oodguard"), **versions()},
        seed=record.seed,
        accept=accept,
        accuracy=share(right),
        member_accuracy=tuple(float(np.mean(votes == targets)) for votes in answers.votes),
        confidence=float(answers.probabilities.max(1).mean(dtype=np.float64)),
        calibration_error=calibration_error(answers.probabilities, targets),
        reliability=reliability(answers.probabilities, targets),
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
        calibration_images=record.splits.calibration,
        acceptance={name: share(values <= thresholds[name]) for name, values in test.values.items()},
        thresholds=thresholds,
        promised=promised_acceptance(accept, record.splits.calibration),
        operating_points=operating_points(evidence, accept),
        ood={name: _table(evidence, name, accept) for name in evidence.ood},
        leave_out=dict(leave_out or {}),
        leak={k: v for k, v in record.metrics.items() if k.startswith("knn")},
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
        scores={key: detection(test.values[key], ood.values[key], thresholds[key]) for key in test.values},
        ablation=ablate(
            record.calibration,
            test=test.answers.scores,
            ood=ood.answers.scores,
            calibration_scores=evidence.calibration,
            accept=accept,
        ),
    )


def _unseen(photos: Photos, record: RunRecord) -> tuple[Photo, ...]:
    """The photos of the classes that a run was trained without: its test folder's, or all of them."""
    return tuple(photo for photo in (photos.test or photos.pool) if photo.label not in record.classes)


def _leave_out(
    options: TrainOptions, count: int, draws: int, accept: float, report: Reporter
) -> dict[str, DetectionTable]:
    """Train without `count` random classes, `draws` times, and take their test images as near-OOD."""
    tables = {}
    for draw in range(1, draws + 1):
        varied = options.model_copy(update={"leave_out": count, "seed": options.seed + draw})
        report.note(f"draw {draw} of {draws}: training without {count} classes")
        with tempfile.TemporaryDirectory() as folder:
            record = train(varied, Path(folder) / "run", report=report)
            run = load_run(Path(folder) / "run")
        photos = load_photos(options.data, options.cache)
        name = f"draw {draw}"
        tables[name] = _table(gather(run, photos, varied, {name: _unseen(photos, record)}, report), name, accept)
    return tables


def _command(
    run_folder: Path, ood: Mapping[str, Path], accept: float, leave_out: int, draws: int, out: Path | None
) -> str:
    """The command line that does this evaluation, whatever file or variable an option really came from."""
    words = ["oodguard", "evaluate", str(run_folder)]
    for name, folder in ood.items():
        words += ["--ood", f"{name}={folder}"]
    words += ["--accept", f"{accept:g}"]
    if leave_out:
        words += ["--leave-out", str(leave_out), "--draws", str(draws)]
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

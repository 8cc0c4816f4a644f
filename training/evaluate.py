"""`evaluate`: what a run is worth, on its test split, on OOD sets, and on classes it never saw."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from oodguard.training.backbone import Backbone, load_backbone
from oodguard.training.calibration import DEFAULT_ACCEPT, FAR_FROM, FAR_WEIGHTS, NEAR_WEIGHTS, Fusion, Scores
from oodguard.training.contract import SCORES, RunRecord, ScoreName
from oodguard.training.data import Photo, Photos, load_photos, load_unlabelled
from oodguard.training.errors import FormatError, InputError
from oodguard.training.features import Extractor
from oodguard.training.metrics import Detection, Share, calibration_error, detection, promised_acceptance, share
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import Answers, answers, divide, label_numbers, train
from oodguard.training.progress import Reporter, Silent
from oodguard.training.run import Run, load_run

FUSED = "fused"

# Each ablation of the fused score: (near weights, far weights).
ABLATIONS: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]] = {
    "fused": (NEAR_WEIGHTS, FAR_WEIGHTS),
    "without far term": (NEAR_WEIGHTS, {}),
    "without density": ({k: v for k, v in NEAR_WEIGHTS.items() if k != "knn"}, {}),
    "without confidence": ({"knn": NEAR_WEIGHTS["knn"]}, FAR_WEIGHTS),
    "mean of all scores": ({spec.name.value: 1 / len(SCORES) for spec in SCORES}, {}),
}


class Table(BaseModel):
    """One OOD set: detection by every score and by every ablation of the fused one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    scores: dict[str, Detection]
    ablation: dict[str, Detection]


class Evaluation(BaseModel):
    """Everything `evaluate` found; `evaluation.json` in the run folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    accept: float
    accuracy: Share
    member_accuracy: tuple[float, ...]
    calibration_error: float
    acceptance: dict[str, Share]
    promised: tuple[float, float]
    ood: dict[str, Table]
    leave_out: dict[str, Table]
    leak: dict[str, float]


def evaluate(
    run_folder: Path,
    *,
    ood: Mapping[str, Path],
    accept: float = DEFAULT_ACCEPT,
    leave_out: int = 0,
    draws: int = 3,
    report: Reporter | None = None,
) -> Evaluation:
    """Evaluate a run on its test split and on OOD folders; optionally retrain without `leave_out` random classes.

    ```python
    found = evaluate(Path("runs/produce"), ood={"clothing": Path("data/clothing/test")})
    ```

    Writes `evaluation.json` and `evaluation.md` into the run folder. Raises `InputError` when a folder or the
    training data is missing, or the data changed since training.
    """
    report = report or Silent()
    run = load_run(run_folder)
    options = options_of(run.record)
    sets = {name: load_unlabelled(folder) for name, folder in ood.items()}
    photos = load_photos(options.data, options.cache)
    if photos.fingerprint != run.record.data_fingerprint:
        raise InputError(f"{options.data} is not what {run_folder} was trained on: the images have changed")
    try:
        run.record.fusion.curve.threshold(accept)
    except ValueError as error:
        raise InputError(str(error)) from None
    backbone, extractor = prepare(run, options)
    test, found = _test_answers(run, photos, backbone, extractor, options, report)
    tables = {
        name: _table(run.record, found, _answers(run, backbone, extractor, strangers, report), accept)
        for name, strangers in sets.items()
    }
    targets = label_numbers(test, run.record.classes)
    values = {**found.scores, FUSED: run.record.fusion.score(run.record.curves, found.scores)}
    curves = {**run.record.curves, FUSED: run.record.fusion.curve}
    result = Evaluation(
        seed=run.record.seed,
        accept=accept,
        accuracy=share(found.probabilities.argmax(1) == targets),
        member_accuracy=tuple(float(np.mean(votes == targets)) for votes in found.votes),
        calibration_error=calibration_error(found.probabilities, targets),
        acceptance={str(name): share(v <= curves[name].threshold(accept)) for name, v in values.items()},
        promised=promised_acceptance(accept, run.record.splits.calibration),
        ood=tables,
        leave_out=_leave_out(options, leave_out, draws, accept, report) if leave_out else {},
        leak={k: v for k, v in run.record.metrics.items() if k.startswith("knn")},
    )
    from oodguard.training.report import to_markdown

    (run_folder / "evaluation.json").write_text(result.model_dump_json(indent=1), encoding="utf-8")
    (run_folder / "evaluation.md").write_text(to_markdown(result), encoding="utf-8")
    return result


def options_of(record: RunRecord) -> TrainOptions:
    """The options a run was trained with."""
    try:
        return TrainOptions.model_validate(record.options)
    except ValueError as error:
        raise FormatError(f"the run's options are of another version ({error})") from None


def prepare(run: Run, options: TrainOptions) -> tuple[Backbone, Extractor]:
    """The run's network and its cached trunk activations."""
    record = run.record
    backbone = Backbone(
        name=record.backbone.name,
        source=record.backbone.source,
        weights_sha256=record.backbone.weights_sha256,
        cut=record.backbone.cut,
        width=record.backbone.width,
        preprocessing=record.preprocessing,
        trunk=run.trunk,
        tail=run.tail,
    )
    return backbone, Extractor(backbone, cache=options.cache, threads=options.threads)


def _test_answers(
    run: Run, photos: Photos, backbone: Backbone, extractor: Extractor, options: TrainOptions, report: Reporter
) -> tuple[Sequence[Photo], Answers]:
    if photos.test:
        test: Sequence[Photo] = extractor.readable(
            tuple(p for p in photos.test if p.label in run.record.classes),
            lambda done, total: report.progress("features of test images", done, total),
        )
    else:
        # The division depends on the frozen network, not on the tuned one.
        original = load_backbone(
            options.backbone, weights=options.weights, image_size=options.image_size, tune=options.tune
        )
        # As the run was trained, and not as a run would be trained today.
        original = replace(original, preprocessing=run.record.preprocessing)
        frozen = Extractor(original, cache=options.cache, threads=options.threads)
        kept = photos.without(frozenset(photos.classes) - frozenset(run.record.classes))
        test = divide(kept, frozen, options, report)[0].test
    if not test:
        raise InputError("the run has no test images to evaluate on")
    return test, answers(backbone, run.heads, extractor.extract(test)[0])


def _answers(run: Run, backbone: Backbone, extractor: Extractor, photos: Sequence[Photo], report: Reporter) -> Answers:
    good = extractor.readable(photos, lambda done, total: report.progress("features of OOD images", done, total))
    if not good:
        raise InputError(f"no image under {photos[0].path.parent} can be read")
    if len(good) < len(photos):
        report.note(f"skipped {len(photos) - len(good)} OOD images that cannot be read")
    return answers(backbone, run.heads, extractor.extract(good)[0])


def _table(record: RunRecord, inside: Answers, outside: Answers, accept: float) -> Table:
    def fused(found: Answers, fusion: Fusion) -> Scores:
        return fusion.score(record.curves, found.scores)

    single = {
        spec.name.value: detection(
            inside.scores[spec.name], outside.scores[spec.name], record.curves[spec.name].threshold(accept)
        )
        for spec in SCORES
    }
    ablation = {}
    for name, (near, far) in ABLATIONS.items():
        # Ablations are ranked, not deployed: their threshold is the test split's own quantile.
        variant = Fusion.fit(record.curves, inside.scores, near=near, far=far, far_from=FAR_FROM)
        ablation[name] = detection(fused(inside, variant), fused(outside, variant), variant.curve.threshold(accept))
    whole = detection(
        fused(inside, record.fusion), fused(outside, record.fusion), record.fusion.curve.threshold(accept)
    )
    return Table(images=len(outside.votes[0]), scores={**single, FUSED: whole}, ablation=ablation)


def _leave_out(options: TrainOptions, count: int, draws: int, accept: float, report: Reporter) -> dict[str, Table]:
    """Train without `count` random classes, `draws` times, and take their test images as near-OOD."""
    tables = {}
    for draw in range(1, draws + 1):
        varied = options.model_copy(update={"leave_out": count, "seed": options.seed + draw})
        report.note(f"draw {draw} of {draws}: training without {count} classes")
        with tempfile.TemporaryDirectory() as folder:
            record = train(varied, Path(folder) / "run", report=report)
            run = load_run(Path(folder) / "run")
        photos = load_photos(options.data, options.cache)
        backbone, extractor = prepare(run, varied)
        _, inside = _test_answers(run, photos, backbone, extractor, varied, report)
        missing = [p for p in (photos.test or photos.pool) if p.label not in record.classes]
        tables[f"draw {draw}"] = _table(record, inside, _answers(run, backbone, extractor, missing, report), accept)
    return tables


def parse_sets(pairs: Sequence[str]) -> dict[str, Path]:
    """`name=folder` pairs as a mapping. Raises `InputError` for anything else or a repeated name."""
    sets: dict[str, Path] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--ood takes name=folder; got {pair!r}")
        if name in sets:
            raise InputError(f"--ood names {name} twice")
        sets[name] = Path(folder)
    return sets


def mean_table(tables: Mapping[str, Table]) -> dict[str, float]:
    """Mean AUROC over draws, by score."""
    names = next(iter(tables.values())).scores
    return {name: float(np.mean([t.scores[name].auroc for t in tables.values()])) for name in names}


def read_evaluation(run_folder: Path) -> Evaluation:
    """The saved evaluation of a run."""
    return Evaluation.model_validate(json.loads((run_folder / "evaluation.json").read_text()))


__all__ = ["ABLATIONS", "Evaluation", "ScoreName", "Table", "evaluate", "mean_table", "parse_sets"]

"""The model card: what is served, and every threshold of it, so that a client can judge again without asking again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from oodguard.core.added import AddedClass
from oodguard.core.answers import ModelRef
from oodguard.core.binomial import promised_acceptance
from oodguard.core.calibration import Calibration
from oodguard.core.classifier import ClassifierRecord
from oodguard.core.curve import QuantileCurve
from oodguard.core.frozen import Frozen
from oodguard.core.label_sets import RAPS_FREE_CLASSES, RAPS_PENALTY, Nonconformity
from oodguard.core.manifest import Manifest, Parity, Precision
from oodguard.core.preprocessing import Preprocessing
from oodguard.core.scores import Family, ScoreName
from oodguard.core.targets import DEFAULT_ACCEPT, Targets
from oodguard.core.verdict import Thresholds
from oodguard.server.model import ServedModel
from oodguard.server.settings import ServeSettings
from oodguard.server.shadow import ShadowState

# Where a slider may stand, in thousandths: finer where a step changes more verdicts.
STOPS = (*range(500, 900, 10), *range(900, 990, 5), *range(990, 1000))
BODY_KNOTS = 24


class Scale(Frozen):
    """`QuantileCurve.surprise` as straight lines between knots, and beyond the last along the last line.

    The surprise of a score, in nats, is `-log P(ID score >= value)`: 4.6 means that one ID image in a hundred scores so
    high. It is 0 below the first knot. `samples` is how many ID images it was measured on; what is rarer than one in
    `samples` is extrapolated.
    """

    samples: int
    values: tuple[float, ...]
    surprises: tuple[float, ...]


class CardThresholds(Frozen):
    """A score's thresholds, one for each of the card's `accepts`: flagged is what scores above."""

    thresholds: tuple[float, ...]
    scale: Scale


class CardAnswers(Frozen):
    """What decides between `answer` and `unsure`, and what a label set holds; one entry for each of `accepts`.

    In distribution, an image whose probability is below `least_chances` is unsure. A label set holds the classes,
    most likely first, whose nonconformity is at most `label_cuts`, and the first one always; null: every class. With
    `free_classes` and `penalty` the nonconformity is RAPS, without them LAC (see `Nonconformity`).
    """

    least_chances: tuple[float, ...]
    label_cuts: tuple[float | None, ...]
    free_classes: int | None
    penalty: float | None


class CardScore(CardThresholds):
    """One score. Higher is more OOD; `weight` is its part of the fused score's false alarms, 0 to 1."""

    name: ScoreName
    family: Family
    title: str
    meaning: str
    weight: float


class Data(Frozen):
    """What the model has seen."""

    train_images: int
    calibration_images: int
    fingerprint: str


class Check(Frozen):
    """One diagnosis: whether it is as it should be, and the sentence that says why."""

    name: str
    passed: bool
    detail: str


class SampleRef(Frozen):
    """An image to try, at `/samples/{number}`."""

    number: int
    title: str


class RequestLimits(Frozen):
    """What an image and a request may be."""

    image_bytes: int
    image_pixels: int
    body_bytes: int
    files: int
    formats: tuple[str, ...]


class Runtime(Frozen):
    """What runs the graph; `max_batch` is null where a remote server forms the batches."""

    engine: str
    device: str
    inferences: int
    max_batch: int | None


class ShadowCard(Frozen):
    """The second bundle that judges a share of the images for metrics only, and whether it does."""

    state: ShadowState
    share: float
    model: ModelRef | None


class ModelCard(Frozen):
    """Everything about the served model that a client can use.

    `targets` are what a request gets that asks for none. `accepts` are the target acceptances that thresholds are
    listed for, increasing, the other targets being those; `max_accept` is the highest that the calibration can promise.
    `answers` is null where the calibration had no labels. `classifier` is the one that the guard was put around, whose
    probabilities are answered; null where the guard has its own. `thumbnails`:
    whether `/thumbnails/SHA256` has small copies of the training photos that explanations name.
    """

    model: ModelRef
    precision: Precision
    created: str
    backbone: str
    seed: int
    classifier: ClassifierRecord | None
    classes: tuple[str, ...]
    targets: Targets
    max_accept: float
    accepts: tuple[float, ...]
    fused: CardThresholds
    answers: CardAnswers | None
    detectors: tuple[CardScore, ...]
    data: Data
    metrics: dict[str, float]
    checks: tuple[Check, ...]
    parity: Parity
    preprocessing: Preprocessing
    runtime: Runtime
    limits: RequestLimits
    samples: tuple[SampleRef, ...]
    thumbnails: bool
    shadow: ShadowCard | None


def card_of(model: ServedModel, settings: ServeSettings, shadow: ShadowCard | None = None) -> ModelCard:
    """The card of a model that serves with `settings`, beside a shadow or without one."""
    manifest, provenance = model.manifest, model.manifest.provenance
    targets, calibration = model.targets, manifest.calibration
    accepts = stops(manifest, targets)
    thresholds = [manifest.thresholds(targets.but(accept=stop)) for stop in accepts]
    return ModelCard(
        model=model.ref,
        precision=manifest.precision,
        created=provenance.created,
        backbone=provenance.backbone,
        seed=provenance.seed,
        classifier=manifest.classifier,
        classes=manifest.classes,
        targets=targets,
        max_accept=manifest.calibration.curve.highest(targets.confidence),
        accepts=accepts,
        fused=CardThresholds(thresholds=tuple(t.fused for t in thresholds), scale=scale_of(calibration.curve)),
        answers=_answers(calibration, thresholds),
        detectors=tuple(
            CardScore(
                name=entry.name,
                family=entry.family,
                title=entry.title,
                meaning=entry.meaning,
                weight=calibration.fusion.weight(entry.name),
                thresholds=tuple(t.scores[column][1] for t in thresholds),
                scale=scale_of(calibration.score_curves[entry.name]),
            )
            for column, entry in enumerate(manifest.scores)
        ),
        data=Data(
            train_images=provenance.train_images,
            calibration_images=provenance.calibration_images,
            fingerprint=provenance.data_fingerprint,
        ),
        metrics=provenance.metrics,
        checks=checks_of(manifest),
        parity=manifest.parity,
        preprocessing=manifest.preprocessing,
        runtime=Runtime(
            engine=model.engine.name,
            device=model.engine.device,
            inferences=model.engine.slots,
            max_batch=model.plan.max_batch if model.plan else None,
        ),
        limits=RequestLimits(
            image_bytes=settings.max_image_bytes,
            image_pixels=settings.max_pixels,
            body_bytes=settings.max_body_bytes,
            files=settings.max_files,
            formats=settings.limits.formats,
        ),
        samples=tuple(
            SampleRef(number=number, title=path.stem) for number, path in enumerate(sample_files(model, settings))
        ),
        thumbnails=model.thumbnails is not None,
        shadow=shadow,
    )


def sample_files(model: ServedModel, settings: ServeSettings) -> Sequence[Path]:
    """The images offered to try: those of the settings, or the bundle's golden images."""
    if settings.samples or model.bundle is None:
        return settings.samples
    return [model.bundle / golden.path for golden in model.manifest.golden]


def stops(manifest: Manifest, targets: Targets) -> tuple[float, ...]:
    """Target acceptances to choose from, that of `targets` among them; none that the calibration cannot promise."""
    highest = manifest.calibration.curve.highest(targets.confidence)
    return tuple(sorted({targets.accept, *(stop / 1000 for stop in STOPS if stop / 1000 <= highest)}))


def _answers(calibration: Calibration, thresholds: Sequence[Thresholds]) -> CardAnswers | None:
    if calibration.answering is None:
        return None
    is_raps = calibration.answering.nonconformity is Nonconformity.RAPS
    chances, cuts = [one.least_chance for one in thresholds], [one.label_cut for one in thresholds]
    return CardAnswers(
        least_chances=tuple(chance for chance in chances if chance is not None),
        label_cuts=tuple(cut if cut is not None and math.isfinite(cut) else None for cut in cuts),
        free_classes=RAPS_FREE_CLASSES if is_raps else None,
        penalty=RAPS_PENALTY if is_raps else None,
    )


def scale_of(curve: QuantileCurve) -> Scale:
    """A curve's surprise as knots: some order statistics, and two points on its exponential tail."""
    ordered = np.asarray(curve.values)
    picks = np.linspace(0, len(ordered) - 1, BODY_KNOTS).round().astype(int)
    spread = max(float(ordered[-1] - ordered[0]), 1e-9)
    # The tail is one straight line, which starts where the surprise of the order statistics reaches it.
    knots = np.unique(np.concatenate([ordered[picks], ordered[-1] + spread * np.array([1.0, 2.0])]))
    return Scale(samples=curve.samples, values=tuple(knots.tolist()), surprises=tuple(curve.surprise(knots).tolist()))


def checks_of(manifest: Manifest) -> tuple[Check, ...]:
    """What export and training found out about the model, each with a verdict."""
    found = [_parity(manifest.parity), *_own(manifest)]
    accepted = manifest.provenance.metrics.get("test_acceptance")
    # The thresholds that the test images were judged by are gone where new photos have set them or a class was added.
    is_training = all(done.source is not None for done in manifest.recalibrations) and not manifest.added
    if accepted is not None and is_training:
        found.append(_acceptance(accepted, manifest))
    found += [_added(one, manifest) for one in manifest.added]
    diagnosis = manifest.diagnosis
    if diagnosis is not None:
        found.append(Check(name="Learner collusion", passed=not diagnosis.colluding, detail=diagnosis.verdict))
    return tuple(found)


def _parity(parity: Parity) -> Check:
    if parity.precision == "fp32":
        passed = parity.labels_identical and parity.verdicts_identical
        same = "The same" if passed else "Other"
        worst = max(parity.max_score_error.values(), default=0.0)
        detail = f"{same} labels and verdicts as PyTorch on {parity.images} images; scores within {worst:.1e}"
    else:
        # Export writes no bundle that fails this gate.
        passed = True
        detail = (
            f"{_percent(parity.label_agreement)} of labels and {_percent(parity.flag_agreement)} of verdicts as the "
            f"fp32 graph on {parity.images} images"
        )
    return Check(name=f"Export parity ({parity.precision})", passed=passed, detail=detail)


def _own(manifest: Manifest) -> Iterator[Check]:
    """That a wrapped classifier answers as it does by itself. Export writes no bundle in which it does not."""
    if manifest.classifier is None or manifest.parity.own_images is None:
        return
    detail = (
        f"On {manifest.parity.own_images} images the probabilities are those of {manifest.classifier.file}, bit for bit"
    )
    yield Check(name="The classifier's own answers", passed=True, detail=detail)


def _added(added: AddedClass, manifest: Manifest) -> Check:
    """Whether the thresholds were set since a class was added, so that targets are promised again."""
    known = added.calibrated is not None or any(
        one.source is None and one.created >= added.created for one in manifest.recalibrations
    )
    since = "thresholds were set since" if known else "what share of other photos is accepted since was not measured"
    detail = (
        f"Added from {added.photos} photos without training; {_percent(added.passing)} of these, each judged without "
        f"itself, are accepted with their label; {since}"
    )
    return Check(name=f"Class {added.name}", passed=known, detail=detail)


def _acceptance(accepted: float, manifest: Manifest) -> Check:
    """Whether the acceptance of the test images is one that the calibration allows, as the report has it."""
    independent, tested = manifest.calibration.independent, manifest.provenance.test_images
    low, high = promised_acceptance(DEFAULT_ACCEPT, independent, tested=tested)
    images = "new images" if tested is None else f"{tested:,} test images"
    detail = (
        f"{_percent(accepted)} of test images accepted at a target of {_percent(DEFAULT_ACCEPT)}; "
        f"{_percent(low)} to {_percent(high)} was to be expected of {images} with {independent:,} groups of "
        "calibration images"
    )
    return Check(name="Promised acceptance", passed=low <= accepted <= high, detail=detail)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

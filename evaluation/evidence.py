"""What a guard said of every image: the arrays that an evaluation and its report are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from oodguard.core.answering import LabelledPhotos
from oodguard.core.curve import Scores
from oodguard.core.errors import FormatError, InputError, OodguardError
from oodguard.core.scores import ScoreName
from oodguard.evaluation.baselines import BaselineScores, baseline_scores
from oodguard.evaluation.frozen import frozen_features
from oodguard.evaluation.leak import leak
from oodguard.training.answers import Answers, answers, head_answers
from oodguard.training.backbone.features import Extractor
from oodguard.training.backbone.network import Backbone
from oodguard.training.backbone.tail import tail_features
from oodguard.training.heads.guard import GuardHeads
from oodguard.training.options import TrainOptions
from oodguard.training.photos.division import Labels, found_again, label_numbers
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.progress import Reporter
from oodguard.training.record import RunRecord
from oodguard.training.run import Run

FUSED = "fused"


@dataclass(frozen=True)
class MeasuredSet:
    """One set of N images and the guard's answers; `values` holds every score and the fused one, `[N]` each."""

    photos: tuple[Photo, ...]
    answers: Answers
    values: Mapping[str, Scores]

    def __len__(self) -> int:
        return len(self.photos)


@dataclass(frozen=True)
class PlainEvidence:
    """What the frozen feature gives: the baselines, and what near-duplicates would have hidden (`leak`).

    baselines: None where they cannot be computed; `skipped` says why.
    """

    baselines: BaselineScores | None
    leak: Mapping[str, Mapping[int, float]]
    skipped: str = ""


@dataclass(frozen=True)
class Evidence:
    """The test images, the OOD sets, and the calibration images' scores.

    targets: true classes of the test images, `[N]`. losses: every member's cross-entropy on them, `[M, N]`, in nats.
    calibration: scores of the calibration photos. labelled: what was said of photos with labels,
    which set the thresholds. plain: what the frozen feature gives. class_photos: how many photos of each class trained.
    """

    record: RunRecord
    test: MeasuredSet
    targets: Labels
    losses: npt.NDArray[np.float64]
    ood: Mapping[str, MeasuredSet]
    calibration: Mapping[ScoreName, Scores]
    labelled: LabelledPhotos
    plain: PlainEvidence
    class_photos: Mapping[str, int] = field(default_factory=dict)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the ensemble's label is right, `[N]`."""
        return np.asarray(self.test.answers.probabilities.argmax(1) == self.targets)


def gather(
    run: Run,
    photos: Photos,
    options: TrainOptions,
    sets: Mapping[str, Sequence[Photo]],
    report: Reporter,
    *,
    baselines: bool = True,
) -> Evidence:
    """Ask a run about its test photos and about OOD sets, by name. baselines: whether to compute these too.

    Raises `InputError` where the run has no test photos, or some of them are missing.
    """
    backbone, extractor = prepare(run, options)
    test = test_photos(run, photos, extractor, report)
    targets = label_numbers(test, run.record.classes)
    features = tail_features(backbone.tail, extractor.extract(test)[0])
    ood = {name: _ood_set(run, backbone, extractor, found, report) for name, found in sets.items()}
    plain = PlainEvidence(baselines=None, leak={}, skipped="not asked for")
    if baselines:
        strangers = {name: found.photos for name, found in ood.items()}
        plain = _plain(run, photos, options, extractor, test, strangers, report)
    return Evidence(
        record=run.record,
        test=measured(run.record, test, head_answers(run.heads, features)),
        targets=targets,
        losses=member_losses(run.heads, features, targets),
        ood=ood,
        calibration=run.calibration,
        labelled=run.labelled,
        plain=plain,
        class_photos={name: len(part) for name, part in run.division.training.items()},
    )


def _plain(
    run: Run,
    photos: Photos,
    options: TrainOptions,
    extractor: Extractor,
    test: Sequence[Photo],
    ood: Mapping[str, Sequence[Photo]],
    report: Reporter,
) -> PlainEvidence:
    """The baselines; where they cannot be had, why."""
    try:
        frozen = frozen_features(run, photos, options, extractor, test=test, ood=ood, report=report)
    except OodguardError as error:
        report.note(f"the baselines are skipped: {error}")
        return PlainEvidence(baselines=None, leak={}, skipped=str(error))
    report.note("fitting the baselines on the frozen feature")
    return PlainEvidence(baselines=baseline_scores(frozen), leak={} if run.record.classifier else leak(frozen))


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
        kind=record.backbone.kind,
        name=record.backbone.name,
        source=record.backbone.source,
        weights_sha256=record.backbone.weights_sha256,
        cut=record.backbone.cut,
        width=record.backbone.width,
        preprocessing=record.preprocessing,
        trunk=run.trunk,
        tail=run.tail,
        rows=run.heads.rows if run.heads.shapes.own_classes else None,
        tuned_sha256=record.backbone.tuned_sha256,
    )
    return backbone, Extractor(backbone, cache=options.cache, threads=options.threads)


@torch.no_grad()
def member_losses(heads: GuardHeads, features: torch.Tensor, targets: Labels) -> npt.NDArray[np.float64]:
    """Cross-entropy `-log p_y^m` of every member on every image, `[M, N]`, in nats."""
    logits = heads.members(features)
    known = np.searchsorted(heads.shapes.covered, targets) if heads.shapes.covered else targets
    rows = torch.from_numpy(known).expand(len(logits), -1)
    return np.asarray(functional.nll_loss(logits.log_softmax(-1).mT, rows, reduction="none").double().numpy())


def test_photos(run: Run, photos: Photos, extractor: Extractor, report: Reporter) -> tuple[Photo, ...]:
    """The run's test photos that can be read. Raises `InputError` where it has none, or some are missing."""
    if not run.division.test:
        raise InputError("the run has no test photos; give its data a test/ folder, or train it without --cross-fit")
    return _readable(extractor, found_again(photos, run.division.test), "features of test images", report)


def measured(record: RunRecord, photos: tuple[Photo, ...], found: Answers) -> MeasuredSet:
    """The answers for a set of photos, with the fused score beside the others."""
    fused = found.fused(record.calibration)
    return MeasuredSet(
        photos=photos,
        answers=found,
        values={**{name.value: values for name, values in found.scores.items()}, FUSED: fused},
    )


def _ood_set(
    run: Run, backbone: Backbone, extractor: Extractor, photos: Sequence[Photo], report: Reporter
) -> MeasuredSet:
    good = _readable(extractor, photos, "features of OOD images", report)
    if not good:
        raise InputError(f"no image under {photos[0].path.parent} can be read")
    if len(good) < len(photos):
        report.note(f"skipped {len(photos) - len(good)} OOD images that cannot be read")
    return measured(run.record, good, answers(backbone, run.heads, extractor.extract(good)[0]))


def _readable(extractor: Extractor, photos: Sequence[Photo], stage: str, report: Reporter) -> tuple[Photo, ...]:
    return extractor.readable(photos, lambda done, total: report.progress(stage, done, total))

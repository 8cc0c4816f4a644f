"""What a guard said of every image: the arrays that an evaluation and its report are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from oodguard.core.calibration import QuantileCurve, Scores
from oodguard.core.errors import FormatError, InputError, OodguardError
from oodguard.core.scores import SCORES
from oodguard.training.answers import Answers, answers, head_answers
from oodguard.training.backbone.features import Extractor
from oodguard.training.backbone.network import Backbone, load_backbone
from oodguard.training.backbone.tail import tail_features
from oodguard.training.heads.guard import GuardHeads
from oodguard.training.options import TrainOptions
from oodguard.training.photos.division import Labels, divide, label_numbers
from oodguard.training.photos.labelled import Photo, Photos
from oodguard.training.progress import Reporter
from oodguard.training.record import RunRecord
from oodguard.training.run import Run

FUSED = "fused"
SCORE_NAMES = tuple(spec.name.value for spec in SCORES)


@dataclass(frozen=True)
class Measured:
    """One set of N images and the guard's answers; `values` holds every score and the fused one, `[N]` each."""

    photos: tuple[Photo, ...]
    answers: Answers
    values: Mapping[str, Scores]

    def __len__(self) -> int:
        return len(self.photos)


@dataclass(frozen=True)
class Evidence:
    """The test images, the OOD sets, and the calibration images' scores.

    targets: true classes of the test images, `[N]`. losses: every member's cross-entropy on them, `[M, N]`, in nats.
    calibration: scores of the images that set the thresholds; None where they cannot be found again.
    """

    record: RunRecord
    inside: Measured
    targets: Labels
    losses: npt.NDArray[np.float64]
    outside: Mapping[str, Measured]
    calibration: Mapping[str, Scores] | None

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the ensemble's label is right, `[N]`."""
        return np.asarray(self.inside.answers.probabilities.argmax(1) == self.targets)


def gather(
    run: Run, photos: Photos, options: TrainOptions, sets: Mapping[str, Sequence[Photo]], report: Reporter
) -> Evidence:
    """Ask a run about its test images and about `sets` of OOD images."""
    backbone, extractor = prepare(run, options)
    test, calibration = divided(run, photos, extractor, options, report)
    if not test:
        raise InputError("the run has no test images to evaluate on")
    targets = label_numbers(test, run.record.classes)
    features = tail_features(backbone.tail, extractor.extract(test)[0])
    inside = _measured(run.record, test, head_answers(run.heads, features))
    return Evidence(
        record=run.record,
        inside=inside,
        targets=targets,
        losses=member_losses(run.heads, features, targets),
        outside={name: _strangers(run, backbone, extractor, found, report) for name, found in sets.items()},
        calibration=_calibration_scores(run, backbone, extractor, calibration),
    )


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


@torch.no_grad()
def member_losses(heads: GuardHeads, features: torch.Tensor, targets: Labels) -> npt.NDArray[np.float64]:
    """Cross-entropy `-log p_y^m` of every member on every image, `[M, N]`, in nats."""
    logits = heads.members(features)
    rows = torch.from_numpy(targets).expand(len(logits), -1)
    return np.asarray(functional.nll_loss(logits.log_softmax(-1).mT, rows, reduction="none").double().numpy())


def divided(
    run: Run, photos: Photos, extractor: Extractor, options: TrainOptions, report: Reporter
) -> tuple[tuple[Photo, ...], tuple[Photo, ...]]:
    """The run's test photos and, where it kept no calibration scores, its calibration photos: as training divided them.

    Where the network as it was before tuning is out of reach, a test folder still serves; the calibration images are
    then not found.
    """
    kept = photos.without(frozenset(photos.classes) - frozenset(run.record.classes))
    if kept.test and run.calibration is not None:
        return _readable(extractor, kept.test, "features of test images", report), ()
    try:
        # The division depends on the frozen network, not on the tuned one.
        original = load_backbone(
            options.backbone, weights=options.weights, image_size=options.image_size, tune=options.tune
        )
        if original.weights_sha256 != run.record.backbone.weights_sha256:
            raise InputError(f"the run started from other weights than --weights {options.weights} gives now")
    except OodguardError:
        if not kept.test:
            raise
        return _readable(extractor, kept.test, "features of test images", report), ()
    # As the run was trained, and not as a run would be trained today.
    original = replace(original, preprocessing=run.record.preprocessing)
    frozen = Extractor(original, cache=options.cache, threads=options.threads)
    division, _ = divide(kept, frozen, options, report)
    return division.test, division.calibration


def _calibration_scores(
    run: Run, backbone: Backbone, extractor: Extractor, photos: Sequence[Photo]
) -> Mapping[str, Scores] | None:
    if run.calibration is None and not photos:
        return None
    found = run.calibration or answers(backbone, run.heads, extractor.extract(photos)[0]).scores
    # Scores of other images would set other thresholds.
    return found if all(_is_of(curve, found[name]) for name, curve in run.record.curves.items()) else None


def _is_of(curve: QuantileCurve, scores: Scores) -> bool:
    again = QuantileCurve.fit(scores)
    tolerance = 1e-3 * (curve.values[-1] - curve.values[0])
    return again.samples == curve.samples and np.allclose(again.values, curve.values, rtol=1e-3, atol=tolerance)


def _measured(record: RunRecord, photos: tuple[Photo, ...], found: Answers) -> Measured:
    fused = record.fusion.score(record.curves, found.scores)
    return Measured(photos=photos, answers=found, values={**found.scores, FUSED: fused})


def _strangers(
    run: Run, backbone: Backbone, extractor: Extractor, photos: Sequence[Photo], report: Reporter
) -> Measured:
    good = _readable(extractor, photos, "features of OOD images", report)
    if not good:
        raise InputError(f"no image under {photos[0].path.parent} can be read")
    if len(good) < len(photos):
        report.note(f"skipped {len(photos) - len(good)} OOD images that cannot be read")
    return _measured(run.record, good, answers(backbone, run.heads, extractor.extract(good)[0]))


def _readable(extractor: Extractor, photos: Sequence[Photo], stage: str, report: Reporter) -> tuple[Photo, ...]:
    return extractor.readable(photos, lambda done, total: report.progress(stage, done, total))

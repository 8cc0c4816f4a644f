"""What answers are worth on ID test photos: chances, label sets, decisions, and acceptance by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from oodguard.core.answering import answered_photos, held_out_fused
from oodguard.core.binomial import promised_acceptance
from oodguard.core.curve import Scores
from oodguard.core.label_sets import Nonconformity
from oodguard.core.sharpening import Sharpening
from oodguard.core.targets import Targets
from oodguard.core.verdict import Decision
from oodguard.training.metrics import Interval, Share, calibration_error, share

if TYPE_CHECKING:
    from oodguard.evaluation.evidence import Evidence

SERVED = "probability, among images that pass"
SOFTMAX = "1 - max probability"
FUSED_ALONE = "fused score alone"
POINTS = 60


class Chances(BaseModel):
    """Whether probabilities are chances: Brier score `mean of sum_c (q_c - [c is true])^2` and log loss in nats.

    `raw_...`: of the graph's own probabilities.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    power: float
    floor: float | None
    calibration_error: float
    raw_calibration_error: float
    brier: float
    raw_brier: float
    log_loss: float
    raw_log_loss: float


class LabelSets(BaseModel):
    """One kind of label sets at one coverage, on the test images that pass. `promised`: where the
    coverage of so many test images lies with 95 % probability."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coverage: float
    promised: Interval
    covered: Share
    mean_size: float
    single: Share
    worst_class: float


class RiskCoverage(BaseModel):
    """Answering the images with the lowest values of one score, as many as one likes.

    `aurc`: mean error over all shares answered (area under the risk-coverage curve). `answered`: the largest share that
    can be answered at the error that the served decision has, with a threshold chosen on these very images. `curve`:
    pairs of the share answered and the error among these.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    aurc: float
    answered: float
    curve: tuple[tuple[float, float], ...]


class Answered(BaseModel):
    """Everything about answers, on ID test images.

    `decisions`: share of each. `errors`: wrong labels among the answered; None when none is. `chosen`: the kind of
    label sets that is served. `by_class`: share accepted of each true class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_error: float
    chances: Chances
    decisions: dict[Decision, Share]
    errors: Share | None
    promised_errors: Interval
    chosen: Nonconformity
    label_sets: dict[Nonconformity, tuple[LabelSets, ...]]
    risk: dict[str, RiskCoverage]
    by_class: dict[str, Share]
    mean_of_classes: float


COVERAGES = (0.8, 0.9, 0.95)


def answered(evidence: Evidence, fused: Scores, targets: Targets) -> Answered | None:
    """What a run's answers are worth, by the fused scores `[N]` of its test images.

    None where its calibration knows no classes.
    """
    calibration = evidence.record.calibration
    if calibration.answering is None:
        return None
    answering, true = calibration.answering, evidence.targets
    raw = evidence.test.answers.probabilities
    chances = answering.sharpening.apply(raw)
    thresholds = calibration.thresholds(
        targets.accept, confidence=targets.confidence, coverage=targets.coverage, max_error=targets.max_error
    )
    passed = fused <= thresholds.fused
    top, right = chances.max(1), evidence.right
    assert thresholds.least_chance is not None
    answer = passed & (top >= thresholds.least_chance)
    groups = round(sum(answering.photos.weight))
    errors = share(~right[answer]) if answer.any() else None
    realised = errors.share if errors is not None else 0.0
    low, high = promised_acceptance(1.0 - targets.max_error, groups, tested=max(int(answer.sum()), 1))
    by_class = {
        name: share(passed[true == number])
        for number, name in enumerate(evidence.record.classes)
        if (true == number).any()
    }
    return Answered(
        max_error=targets.max_error,
        chances=_chances(evidence, chances),
        decisions={
            Decision.ANSWER: share(answer),
            Decision.UNSURE: share(passed & ~answer),
            Decision.STRANGER: share(~passed),
        },
        errors=errors,
        promised_errors=(1.0 - high, 1.0 - low),
        chosen=answering.nonconformity,
        label_sets=_label_sets(
            evidence, answering.sharpening, chances, passed, coverage=targets.coverage, threshold=thresholds.fused
        ),
        risk={
            SERVED: _risk(np.where(passed, -top, 1.0), right, realised),
            SOFTMAX: _risk(-raw.max(1).astype(np.float64), right, realised),
            FUSED_ALONE: _risk(fused, right, realised),
        },
        by_class=by_class,
        mean_of_classes=float(np.mean([part.share for part in by_class.values()])),
    )


def _chances(evidence: Evidence, chances: npt.NDArray[np.float64]) -> Chances:
    assert evidence.record.calibration.answering is not None
    how, true = evidence.record.calibration.answering.sharpening, evidence.targets
    raw = evidence.test.answers.probabilities.astype(np.float64)
    hot = np.eye(raw.shape[1])[true]
    rows = np.arange(len(true))

    def measures(p: npt.NDArray[np.float64]) -> tuple[float, float, float]:
        return (
            calibration_error(p, true),
            float(np.square(p - hot).sum(1).mean()),
            float(-np.log(np.maximum(p[rows, true], 1e-12)).mean()),
        )

    error, brier, loss = measures(chances)
    raw_error, raw_brier, raw_loss = measures(raw)
    return Chances(
        power=how.power,
        floor=how.floor,
        calibration_error=error,
        raw_calibration_error=raw_error,
        brier=brier,
        raw_brier=raw_brier,
        log_loss=loss,
        raw_log_loss=raw_loss,
    )


def _label_sets(
    evidence: Evidence,
    sharpening: Sharpening,
    chances: npt.NDArray[np.float64],
    passed: npt.NDArray[np.bool_],
    *,
    coverage: float,
    threshold: float,
) -> dict[Nonconformity, tuple[LabelSets, ...]]:
    """Label sets of both kinds, at the usual coverages and at `coverage`."""
    labelled = evidence.labelled
    fused = held_out_fused(labelled, chances.shape[1])
    held = sharpening.apply(labelled.probabilities)
    found = {}
    for kind in Nonconformity:
        photos = answered_photos(labelled, held, fused, kind)
        table = kind.table(chances)
        cuts = {c: photos.cut(c, threshold=threshold) for c in sorted({*COVERAGES, coverage})}
        found[kind] = tuple(
            _label_sets_at(evidence, c, table <= cut, passed, groups=round(sum(photos.weight)))
            for c, cut in cuts.items()
        )
    return found


def _label_sets_at(
    evidence: Evidence,
    coverage: float,
    inside: npt.NDArray[np.bool_],
    passed: npt.NDArray[np.bool_],
    *,
    groups: int,
) -> LabelSets:
    """The label sets `inside [N, C]` of one kind at one coverage; the class given joins each."""
    rows, true = np.arange(len(inside)), evidence.targets
    inside[rows, evidence.test.answers.probabilities.argmax(1)] = True
    covered = inside[rows, true]
    sizes = inside.sum(1)
    by_class = [covered[passed & (true == c)] for c in range(inside.shape[1])]
    return LabelSets(
        coverage=coverage,
        promised=promised_acceptance(coverage, groups, tested=max(int(passed.sum()), 1)),
        covered=share(covered[passed]),
        mean_size=float(sizes[passed].mean()) if passed.any() else 0.0,
        single=share(sizes[passed] == 1),
        worst_class=min((float(own.mean()) for own in by_class if len(own)), default=0.0),
    )


def _risk(values: Scores, right: npt.NDArray[np.bool_], realised: float) -> RiskCoverage:
    wrong = ~right[np.argsort(values, kind="stable")]
    errors = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    good = np.flatnonzero(errors <= realised + 1e-12)
    sizes = np.unique(np.linspace(1, len(wrong), POINTS).round().astype(int))
    return RiskCoverage(
        aurc=float(errors.mean()),
        answered=float((good[-1] + 1) / len(wrong)) if len(good) else 0.0,
        curve=tuple((float(size / len(wrong)), float(errors[size - 1])) for size in sizes),
    )


def worse_classes(by_class: Mapping[str, Share], least: float) -> tuple[str, ...]:
    """Classes whose acceptance is below `least` by more than chance, the worst first."""
    low = [(found.share, name) for name, found in by_class.items() if found.high < least]
    return tuple(name for _, name in sorted(low))

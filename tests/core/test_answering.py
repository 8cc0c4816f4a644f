from __future__ import annotations

import math

import numpy as np
import pytest

from oodguard.core.answering import AnsweredPhotos, Answering, LabelledPhotos, class_offsets, held_out_fused
from oodguard.core.calibration import Calibration
from oodguard.core.label_sets import Nonconformity
from oodguard.core.scores import SCORES
from oodguard.core.sharpening import Sharpening
from oodguard.core.verdict import Decision, Outputs

CLASSES = ("amber", "jade", "plum")


def table(
    fused: list[float], chance: list[float], right: list[bool], *, weight: list[float] | None = None
) -> AnsweredPhotos:
    return AnsweredPhotos(
        fused=tuple(fused),
        chance=tuple(chance),
        right=tuple(right),
        nonconformity=tuple(1.0 - c for c in chance),
        weight=tuple(weight or [1.0] * len(fused)),
    )


def photos(count: int, *, seed: int, hard: int | None = None) -> LabelledPhotos:
    """Photos whose probabilities are true chances; those of class `hard` surprise by 2 nats more."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(3, size=count)
    logits = 2.0 * rng.normal(size=(count, 3))
    logits[np.arange(count), targets] += 3.0
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    surprise = rng.exponential(size=count)
    if hard is not None:
        surprise[probabilities.argmax(1) == hard] += 2.0
    return LabelledPhotos(
        surprise=surprise, probabilities=probabilities, targets=targets, groups=np.arange(count, dtype=np.int64)
    )


def test_the_least_chance_keeps_the_error_with_one_more_wrong_photo() -> None:
    chance = [0.99, 0.97, 0.95, 0.93, 0.9, 0.8, 0.7, 0.6]
    answered = table([0.0] * 8, chance, [True, True, True, True, True, False, True, False])
    # Down to 0.9 all five are right: (0 + 1) / (5 + 1); down to 0.7 one of seven is wrong: (1 + 1) / (7 + 1).
    assert answered.least_chance(1 / 6, threshold=1.0) == 0.9
    assert answered.least_chance(0.25, threshold=1.0) == 0.7
    assert answered.least_chance(0.34, threshold=1.0) == 0.6
    assert answered.least_chance(0.05, threshold=1.0) == 2.0


def test_only_photos_that_pass_count() -> None:
    answered = table([0.0, 0.0, 5.0], [0.9, 0.8, 0.99], [True, True, False])
    assert answered.least_chance(1 / 3, threshold=1.0) == 0.8
    assert answered.least_chance(1 / 3, threshold=5.0) == 2.0


def test_near_duplicates_count_as_one() -> None:
    one = table([0.0] * 3, [0.9, 0.8, 0.7], [True, False, True])
    three = table(
        [0.0] * 5, [0.9, 0.8, 0.8, 0.8, 0.7], [True, False, False, False, True], weight=[1, 1 / 3, 1 / 3, 1 / 3, 1]
    )
    for max_error in (0.3, 0.5, 0.6, 0.7):
        assert one.least_chance(max_error, threshold=1.0) == three.least_chance(max_error, threshold=1.0)
    assert one.cut(0.7, threshold=1.0) == three.cut(0.7, threshold=1.0)


def test_the_cut_is_the_conformal_quantile() -> None:
    answered = table([0.0] * 9, [1 - r / 10 for r in range(1, 10)], [True] * 9)
    # Of nine photos the ninth reaches 9 / (9 + 1).
    assert answered.cut(0.9, threshold=1.0) == pytest.approx(0.9)
    assert answered.cut(0.5, threshold=1.0) == pytest.approx(0.5)
    assert answered.cut(0.91, threshold=1.0) == math.inf


def test_realised_coverage_and_error_are_as_promised() -> None:
    held, new = photos(3000, seed=1), photos(20_000, seed=2)
    answering = Answering.fit(held)
    threshold = answering.curve.threshold(0.95)
    passed = answering.fused(new.surprise, new.predicted) <= threshold
    chances = answering.sharpening.apply(new.probabilities)
    assert np.mean(passed) == pytest.approx(0.95, abs=0.01)
    for coverage in (0.8, 0.9, 0.95):
        inside = answering.nonconformity.table(chances) <= answering.photos.cut(coverage, threshold=threshold)
        inside[np.arange(len(new)), new.predicted] = True
        assert np.mean(inside[passed, new.targets[passed]]) >= coverage - 0.015
    for max_error in (0.02, 0.05, 0.1):
        answer = passed & (chances.max(1) >= answering.photos.least_chance(max_error, threshold=threshold))
        assert answer.any()
        assert np.mean(new.predicted[answer] != new.targets[answer]) <= max_error + 0.01


def test_a_hard_class_is_accepted_like_the_others() -> None:
    held, new = photos(1500, seed=3, hard=1), photos(9000, seed=4, hard=1)
    answering = Answering.fit(held)
    passed = answering.fused(new.surprise, new.predicted) <= answering.curve.threshold(0.95)
    for label in range(3):
        assert np.mean(passed[new.predicted == label]) == pytest.approx(0.95, abs=0.025)
    alike = new.surprise <= np.quantile(held.surprise, 0.95)
    assert np.mean(alike[new.predicted == 1]) < 0.9
    assert np.mean(alike[new.predicted == 0]) > 0.97


def test_offsets_are_differences_of_quantiles_and_shrink_with_few_photos() -> None:
    surprise = np.concatenate([np.linspace(0, 10, 101), np.linspace(4, 14, 101), [50.0] * 20, [60.0] * 19])
    predicted = np.concatenate([np.zeros(101, int), np.ones(101, int), [2] * 20, [3] * 19])
    offsets = class_offsets(surprise, predicted, 5)
    whole = np.quantile(surprise, 0.9)
    assert offsets[0] == pytest.approx((9.0 - whole) * 101 / 161)
    assert offsets[1] == pytest.approx((13.0 - whole) * 101 / 161)
    assert offsets[2] == pytest.approx((50.0 - whole) * 20 / 80)
    assert offsets[3:].tolist() == [0.0, 0.0]


def test_the_kind_with_smaller_sets_is_chosen_and_everything_survives_json() -> None:
    answering = Answering.fit(photos(600, seed=5))
    assert answering.nonconformity is Nonconformity.LAC
    assert Answering.model_validate_json(answering.model_dump_json()) == answering
    assert answering.curve.samples == answering.curve.independent == 600


def test_probabilities_may_be_kept() -> None:
    held = photos(400, seed=6)
    assert Answering.fit(held, keep_probabilities=True).sharpening == Sharpening()
    assert Answering.fit(held).sharpening != Sharpening()


def test_at_most_2048_photos_are_kept() -> None:
    answering = Answering.fit(photos(5000, seed=7))
    assert len(answering.photos.fused) == 2048
    assert answering.curve.samples == 5000


def test_verdicts_say_answer_unsure_or_stranger() -> None:
    rng = np.random.default_rng(8)
    scores = {spec.name: rng.normal(size=800) for spec in SCORES}
    plain = Calibration.fit(scores)
    held = photos(800, seed=9)
    calibration = plain.answered(
        LabelledPhotos(
            surprise=plain.surprise(scores),
            probabilities=held.probabilities,
            targets=held.targets,
            groups=held.groups,
        )
    )
    usual, strange = np.zeros(len(SCORES)), np.full(len(SCORES), 9.0)
    outputs = Outputs(
        probabilities=np.array([[0.98, 0.01, 0.01], [0.4, 0.38, 0.22], [0.98, 0.01, 0.01]], np.float32),
        scores=np.stack([usual, usual, strange]).astype(np.float32),
    )
    sure, unsure, stranger = calibration.judge(outputs, classes=CLASSES)
    assert (sure.decision, sure.labels, sure.is_ood) == (Decision.ANSWER, ("amber",), False)
    assert (unsure.decision, unsure.is_ood) == (Decision.UNSURE, False)
    assert unsure.labels is not None
    assert unsure.labels[:2] == ("amber", "jade")
    assert (stranger.decision, stranger.labels, stranger.is_ood) == (Decision.STRANGER, (), True)
    assert sure.probability == pytest.approx(float(calibration.chances(outputs.probabilities)[0, 0]))
    without = plain.judge(outputs, classes=CLASSES)
    assert [verdict.labels for verdict in without] == [None, None, None]
    assert [verdict.decision for verdict in without] == [Decision.ANSWER, Decision.ANSWER, Decision.STRANGER]


def test_the_fused_score_needs_the_class_where_classes_differ() -> None:
    rng = np.random.default_rng(10)
    scores = {spec.name: rng.normal(size=60) for spec in SCORES}
    calibration = Calibration.fit(scores)
    held = photos(60, seed=11, hard=2)
    answered = calibration.answered(
        LabelledPhotos(
            surprise=held.surprise, probabilities=held.probabilities, targets=held.targets, groups=held.groups
        )
    )
    assert answered.answering is not None
    by_class = np.stack([answered.score(scores, np.full(60, label)) for label in range(3)])
    np.testing.assert_allclose(
        by_class + np.array(answered.answering.offsets)[:, None], [calibration.surprise(scores)] * 3
    )
    with pytest.raises(ValueError, match="needs the classes"):
        answered.score(scores)


def test_a_target_beyond_the_single_scores_photos_takes_their_largest() -> None:
    rng = np.random.default_rng(12)
    scores = {spec.name: rng.normal(size=60) for spec in SCORES}
    plain = Calibration.fit(scores)
    held, apart = photos(60, seed=13), photos(900, seed=14)
    own = LabelledPhotos(
        surprise=plain.surprise(scores),
        probabilities=held.probabilities,
        targets=held.targets,
        groups=held.groups + 900,
    )
    calibration = plain.answered(apart.and_these(own))
    assert (plain.max_accept, calibration.max_accept) == (60 / 61, 960 / 961)
    found = calibration.thresholds(0.998)
    assert dict(found.scores) == {name: values.max() for name, values in scores.items()}
    assert found.fused == calibration.curve.threshold(0.998)
    with pytest.raises(ValueError, match="at most"):
        calibration.thresholds(0.9995)


@pytest.mark.parametrize("given", [19, 20, 22, 25, 40])
def test_a_new_image_is_judged_as_the_calibration_photos_of_its_class_were(given: int) -> None:
    """Also of classes about as large as the least that is judged apart: parts of them are smaller than that."""
    rng = np.random.default_rng(given)
    targets = np.repeat(np.arange(3), (given, 15, 26))
    surprise = rng.exponential(size=len(targets)) + np.where(targets == 0, 2.0, 0.0)
    probabilities = np.full((len(targets), 3), 0.05, np.float32)
    probabilities[np.arange(len(targets)), targets] = 0.9
    own = LabelledPhotos(
        surprise=surprise, probabilities=probabilities, targets=targets, groups=np.arange(len(targets), dtype=np.int64)
    )
    moved = Answering.fit(own).fused(surprise, targets) != surprise
    assert ((held_out_fused(own, 3) != surprise) == moved).all()
    assert [bool(moved[targets == label].all()) for label in range(3)] == [given >= 20, False, True]

from __future__ import annotations

import pytest

from oodguard.core.binomial import promised_acceptance
from oodguard.core.scores import Family, ScoreName
from oodguard.evaluation.baselines import LARGER, NEIGHBOUR
from oodguard.evaluation.confusion import Confusion
from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.evidence import FUSED
from oodguard.evaluation.operating import OperatingPoint
from oodguard.evaluation.report.at_threshold import check_table, fusion_sentence
from oodguard.evaluation.report.summary import findings
from oodguard.evaluation.shifted import Shifted
from oodguard.evaluation.threshold import AtThreshold, Deciding
from oodguard.pages.text import NO_BREAK
from oodguard.training.metrics import Change, Share

DO = ("Add ", "add ", "train ", "Train ", "measure ", "Rely ", "decide ", "ask ", "Raise ", "Do not ", "Compare ")


def said(found: Evaluation, **changes: object) -> dict[str, str]:
    """Every tone's sentences, of an evaluation with some numbers changed."""
    tones: dict[str, str] = {"good": "", "weak": "", "note": ""}
    for finding in findings(found.model_copy(update=changes)):
        tones[finding.tone] += finding.text + "\n"
    return tones


@pytest.mark.parametrize(
    ("realised", "tone", "words"),
    [
        (0.899, "weak", "The promise is not kept: only 89.9"),
        (0.9199, "weak", "The promise is not kept"),
        (0.92, "good", "The promise is kept: 92.0"),
        (0.95, "good", "The promise is kept"),
        (0.97, "good", "The promise is kept"),
        (0.9701, "weak", "More is accepted than asked for: 97.0"),
        (1.0, "weak", "More is accepted than asked for"),
    ],
)
def test_the_promise_is_kept_inside_its_interval_alone(
    found: Evaluation, realised: float, tone: str, words: str
) -> None:
    # Its own interval reaches far into the promised one: that excuses nothing.
    share = Share(share=realised, low=realised - 0.05, high=min(realised + 0.05, 1.0), of=346)
    texts = said(found, acceptance={**found.acceptance, FUSED: share}, promised=(0.92, 0.97))
    assert words in texts[tone]
    assert sum(text.count("accepted than asked") + text.count("The promise is") for text in texts.values()) == 1


def test_what_was_to_be_expected_counts_the_chance_of_the_test_images_too(found: Evaluation) -> None:
    assert (found.calibration_images, found.acceptance[FUSED].of) == (200, 240)
    # Near-duplicates count once.
    assert found.calibration_groups == 100
    assert found.promised == promised_acceptance(0.95, 100, tested=240)
    low, high = promised_acceptance(0.95, 100)
    assert found.promised[0] < low < high < found.promised[1]


def at(let_in: float, low: float, high: float, images: int = 60) -> AtThreshold:
    """A score that lets in `let_in`, with the fused score's share less that in the middle of `low` and `high`."""
    return AtThreshold(
        accepted=Share(share=0.95, low=0.9, high=0.98, of=240),
        let_in=Share(share=let_in, low=max(let_in - 0.1, 0), high=min(let_in + 0.1, 1), of=images),
        fused_less_this=Change(change=(low + high) / 2, low=low, high=high),
        auroc=0.8,
    )


def changed(found: Evaluation, **changes: object) -> dict[str, str]:
    return said(found, ood={"far": found.ood["far"].model_copy(update=changes)}, leave_out={})


def test_a_set_is_judged_by_what_the_threshold_lets_in(found: Evaluation) -> None:
    def points(let_in: float) -> dict[str, AtThreshold]:
        return {**dict.fromkeys(found.ood["far"].at_threshold, at(0.9, -0.9, -0.5)), FUSED: at(let_in, 0, 0)}

    assert "far: 15 of 60 images get through at the threshold" in changed(found, at_threshold=points(0.25))["weak"]
    assert "far: 6 of 60 images" in changed(found, at_threshold=points(0.1))["note"]
    assert "far: 3 of 60 images" in changed(found, at_threshold=points(0.05))["good"]
    assert "far has 60 images: too few" in changed(found, at_threshold=points(0.05))["note"]


@pytest.mark.parametrize(
    ("low", "high", "weak"), [(0.01, 0.09, True), (-0.01, 0.2, False), (0.005, 0.03, False), (-0.2, -0.1, False)]
)
def test_a_single_score_that_is_better_by_more_than_chance_and_two_points_is_named(
    found: Evaluation, low: float, high: float, weak: bool
) -> None:
    others = dict.fromkeys(found.ood["far"].at_threshold, at(0.5, -0.3, -0.2))
    texts = changed(found, at_threshold={**others, FUSED: at(0.35, 0, 0), "energy": at(0.3, low, high)})
    assert ("far: energy alone, at its own threshold, lets in fewer than the fused score" in texts["weak"]) == weak


@pytest.mark.parametrize(("low", "high", "weak"), [(0.001, 0.02, True), (-0.001, 0.3, False), (-0.3, -0.1, False)])
def test_a_baseline_that_lets_in_fewer_by_more_than_chance_is_a_weakness(
    found: Evaluation, low: float, high: float, weak: bool
) -> None:
    rivals = {LARGER: at(0.0, low, high), NEIGHBOUR: at(0.4, -0.4, -0.3)}
    texts = changed(found, baselines=rivals)
    assert ("far: a baseline of thirty lines, larger of both ranks, lets in fewer" in texts["weak"]) == weak
    assert found.comparison.sentence in texts["note" if weak else "good"]


def test_a_baseline_is_judged_on_left_out_classes_too(found: Evaluation) -> None:
    draw = found.leave_out["draw 1"].model_copy(update={"baselines": {NEIGHBOUR: at(0.1, 0.1, 0.2)}})
    assert "left-out classes, draw 1: a baseline of thirty lines" in said(found, leave_out={"draw 1": draw})["weak"]


def test_logistic_regression_that_labels_better_is_a_weakness(found: Evaluation) -> None:
    def accuracy(low: float, high: float) -> str:
        change = Change(change=(low + high) / 2, low=low, high=high)
        comparison = found.comparison.model_copy(update={"accuracy_change": change})
        return said(found, comparison=comparison)["weak"]

    assert "Logistic regression on the frozen feature predicts more photos rightly" in accuracy(-0.05, -0.01)
    assert "Logistic regression" not in accuracy(-0.05, 0.01)


def test_a_family_that_decides_less_than_a_hundredth_everywhere_cannot_flag_anything(found: Evaluation) -> None:
    def decided(confidence: float) -> Deciding:
        return Deciding(flagged=400, shares={Family.CONFIDENCE: confidence, Family.DENSITY: 1 - confidence})

    def weak(on_test: float, on_far: float) -> str:
        far = found.ood["far"].model_copy(update={"decided": decided(on_far)})
        return said(found, decided=decided(on_test), ood={"far": far})["weak"]

    assert "The confidence family cannot flag anything at this target" in weak(0.009, 0.0)
    assert "800 flagged images" in weak(0.009, 0.0)
    assert "cannot flag anything" not in weak(0.01, 0.0)
    assert "cannot flag anything" not in weak(0.0, 0.5)
    assert "The density family cannot flag anything at this target" in weak(1.0, 0.995)
    nothing = Deciding(flagged=0, shares=dict.fromkeys(Family, 0.0))
    assert "cannot flag" not in said(found, decided=nothing, ood={}, leave_out={})["weak"]


def test_a_fused_score_below_chance_is_named_and_one_that_is_not_fused_is_not(found: Evaluation) -> None:
    def with_auroc(name: str, auroc: float, high: float) -> str:
        scores = found.ood["far"].scores
        low = scores[name].model_copy(update={"auroc": auroc, "auroc_interval": (auroc - 0.05, high)})
        return changed(found, scores={**scores, name: low})["weak"]

    assert "far: energy is below chance (AUROC 44.0" in with_auroc("energy", 0.44, 0.49)
    assert "below chance" not in with_auroc("energy", 0.44, 0.51)
    assert "below chance" not in with_auroc("ice", 0.1, 0.2)
    assert ScoreName.ICE not in found.fusion.weights


def test_scores_that_fail_the_check_are_named_in_the_fused_score_and_out_of_it(found: Evaluation) -> None:
    texts = said(found)
    assert "knn does not tell classes left out of training (AUROC 52.5 %, at least 55 % are asked for)" in texts["weak"]
    assert "ice is left out of the fused score" in texts["note"]
    assert "ice" not in texts["weak"].replace("twice", "")
    unchecked = said(found, fusion=found.fusion.model_copy(update={"check": None}))
    assert "left out of training (AUROC" not in "".join(unchecked.values())


@pytest.mark.parametrize(
    ("worth", "loss", "weak"),
    [(0.003, 0.2, True), (0.0099, 0.2, True), (0.01, 0.2, False), (0.019, 2.0, True), (0.02, 2.0, False)],
)
def test_members_that_agree_are_a_weakness(found: Evaluation, worth: float, loss: float, weak: bool) -> None:
    diversity = found.diversity.model_copy(update={"ambiguity": worth, "ensemble_loss": loss})
    texts = said(found, diversity=diversity)
    assert ("The members agree: averaging them is worth" in texts["weak"]) == weak


def test_every_weakness_says_what_to_do(found: Evaluation) -> None:
    for finding in findings(found):
        assert finding.tone != "weak" or any(verb in finding.text for verb in DO), finding.text


def test_probabilities_that_lie_are_named_with_their_direction(found: Evaluation) -> None:
    high = said(found, calibration_error=0.2, confidence=0.99, accuracy=Share(share=0.8, low=0.7, high=0.9, of=99))
    assert "Probabilities are too high" in high["weak"]
    low = said(found, calibration_error=0.2, confidence=0.5, accuracy=Share(share=0.8, low=0.7, high=0.9, of=99))
    assert "Probabilities are too low" in low["weak"]
    assert "Probabilities" not in "".join(said(found, calibration_error=0.01).values())


def test_classes_below_one_half_are_named_worst_first(found: Evaluation) -> None:
    recalls = {
        "a": Share(share=0.4, low=0.2, high=0.6, of=20),
        "b": Share(share=0.1, low=0.0, high=0.3, of=20),
        "c": Share(share=0.5, low=0.3, high=0.7, of=20),
    }
    confusions = (
        Confusion(true="b", predicted="c", images=9, of=20),
        Confusion(true="b", predicted="a", images=5, of=20),
    )
    counts = {"a": 300, "b": 45, "c": 120}
    text = said(found, recalls=recalls, confusions=confusions, class_photos=counts)["weak"].replace(NO_BREAK, " ")
    assert (
        "Predicted rightly less than half of the time: b (10 % of 20 test images; most often predicted c, 9; 45 photos "
        "to train on), a (40 % of 20 test images; 300 photos to train on). Add photos of b: the median class "
        "has 120 to train on. Look for wrong labels with oodguard check and add photos like those of the test: a has "
        "as many photos as the others.\n"
    ) in text
    # An evaluation that was written before they were counted.
    assert "Add photos of these classes" in said(found, recalls=recalls, class_photos={})["weak"]


def let_in_of(images: int, of: int = 60) -> Share:
    return Share(share=images / of, low=0.0, high=1.0, of=of)


def priced(found: Evaluation, *points: tuple[float, float, int]) -> tuple[OperatingPoint, ...]:
    """Operating points from target, share of ID test accepted, and images of `far` let in."""
    whole = found.operating_points[0]
    return tuple(
        whole.model_copy(
            update={
                "accept": accept,
                "id_accepted": Share(share=share, low=0.0, high=1.0, of=240),
                "ood_accepted": {"far": let_in_of(images)},
            }
        )
        for accept, share, images in points
    )


@pytest.mark.parametrize(
    ("points", "price"),
    [
        # The highest target that halves what is let in.
        (
            [(0.8, 0.81, 2), (0.9, 0.89, 15), (0.95, 0.94, 30)],
            "--accept 0.9 would let in 25.0 % of them and costs 5.0 ",
        ),
        (
            [(0.8, 0.81, 10), (0.9, 0.89, 16), (0.95, 0.94, 30)],
            "--accept 0.8 would let in 16.7 % of them and costs 13.0 ",
        ),
        # None does: the lowest says how little it helps.
        (
            [(0.8, 0.81, 25), (0.9, 0.89, 28), (0.95, 0.94, 30)],
            "--accept 0.8 would let in 41.7 % of them and costs 13.0 ",
        ),
        ([(0.5, 0.51, 0), (0.95, 0.94, 30)], None),
    ],
)
def test_a_set_that_gets_through_has_its_price_and_what_it_is_predicted_as(
    found: Evaluation, points: list[tuple[float, float, int]], price: str | None
) -> None:
    far = found.ood["far"]
    measured = {**dict.fromkeys(far.at_threshold, at(0.9, -0.9, -0.5)), FUSED: at(0.5, 0, 0)}
    table = far.model_copy(update={"at_threshold": measured, "passed_as": {"amber": 20, "jade": 10}})
    changes = {"ood": {"far": table}, "leave_out": {}, "operating_points": priced(found, *points)}
    text = said(found, **changes)["weak"].replace(NO_BREAK, " ")
    assert "of ID test is accepted, most often predicted amber (20) or jade (10). " in text
    assert "If images like far will arrive, add photos of them as a class, or give them to train --outliers." in text
    assert (price in text) if price else ("would let in" not in text)
    assert "or give them to wrap --outliers." in said(found, wrapped="net.onnx", **changes)["weak"]


def test_a_broken_promise_names_the_target_that_keeps_it_and_what_it_lets_in(found: Evaluation) -> None:
    points = priced(found, (0.9, 0.85, 1), (0.95, 0.9, 3), (0.98, 0.96, 9), (0.99, 0.97, 12))
    below = Share(share=0.9, low=0.85, high=0.95, of=240)
    texts = said(found, acceptance={**found.acceptance, FUSED: below}, promised=(0.92, 0.97), operating_points=points)
    assert "--accept 0.98 accepts 96.0 % of them, and lets in 15.0 % of far." in texts["weak"].replace(NO_BREAK, " ")
    none = said(
        found, acceptance={**found.acceptance, FUSED: below}, promised=(0.92, 0.97), operating_points=points[:2]
    )
    assert "No target of the table below accepts so many of them." in none["weak"]
    above = Share(share=0.99, low=0.97, high=1.0, of=240)
    points = priced(found, (0.8, 0.9, 1), (0.9, 0.94, 3), (0.95, 0.99, 9))
    texts = said(found, acceptance={**found.acceptance, FUSED: above}, promised=(0.92, 0.97), operating_points=points)
    assert "--accept 0.9 accepts 94.0 % of them, and lets in 5.0 % of far." in texts["weak"].replace(NO_BREAK, " ")


def test_the_title_names_run_and_data(found: Evaluation) -> None:
    assert found.title == "Evaluation, trained on photos"
    named = found.model_copy(update={"run": "shop version 3", "data": "clothes"})
    assert named.title == "Evaluation of shop version 3, trained on clothes"


def test_a_wrapped_run_says_why_it_has_no_check_on_left_out_classes(found: Evaluation) -> None:
    parts = found.fusion.model_copy(update={"check": None})
    sentence = fusion_sentence(parts, wrapped="net.onnx")
    assert (
        "there is no check on left-out classes, because net.onnx learned its feature with the labels of all" in sentence
    )
    assert "--check-folds 0" in fusion_sentence(parts)
    # A table of dashes would say nothing.
    table = check_table(parts)
    assert table.head == ("score", "family", "part of the fused score")
    assert len(table.rows) == len(parts.weights)
    advice = said(found, wrapped="net.onnx", ood={}, leave_out={})["weak"]
    assert "Add sets with --ood name=folder.\n" in advice


def test_a_class_that_is_flagged_too_often_says_how_many_photos_it_had(found: Evaluation) -> None:
    assert found.answered is not None
    by_class = {**found.answered.by_class, "b": Share(share=0.5, low=0.3, high=0.7, of=20)}
    answered = found.answered.model_copy(update={"by_class": by_class})
    text = said(found, answered=answered, class_photos={"a": 300, "b": 45, "c": 120})["weak"].replace(NO_BREAK, " ")
    assert "b (50 % of 20; 45 photos to train on)" in text
    assert "Add photos of b: the median class has 120 to train on." in text


def test_members_that_agree_on_strangers_are_a_weakness(found: Evaluation) -> None:
    rates = {"ID test": 0.2, "far": 0.1, "near": 0.5}
    texts = said(found, diversity=found.diversity.model_copy(update={"mean_disagreement": rates}))
    assert "far: the members disagree no more" in texts["weak"]
    assert "near: the members" not in texts["weak"]


def test_weaknesses_come_first(found: Evaluation) -> None:
    tones = [finding.tone for finding in findings(found)]
    assert tones == sorted(tones, key=("weak", "note", "good").index)


def test_a_shift_that_flags_more_than_twice_the_promise_is_weak(found: Evaluation) -> None:
    assert found.shifts is not None
    plain, mild, _ = found.shifts.rows

    def flagged(row: Shifted, low: float, name: str) -> Shifted:
        share = Share(share=low + 0.04, low=low, high=low + 0.09, of=204)
        return row.model_copy(update={"flagged": share, "name": name})

    def table(*rows: Shifted) -> dict[str, str]:
        assert found.shifts is not None
        return said(found, shifts=found.shifts.model_copy(update={"rows": (plain, *rows)}))

    texts = table(flagged(mild, 0.1001, "dim"), flagged(mild, 0.5, "grey"), flagged(mild, 0.0999, "blur"))
    (line,) = (line for line in texts["weak"].splitlines() if line.startswith("Mild shifts"))
    assert line.index("grey: 54.0") < line.index("dim: 14.0")
    assert "blur" not in line
    assert "promised 5\N{NO-BREAK SPACE}%" in line or "promised 5 %" in line
    assert "train with some of them" in line
    assert "Mild shifts" not in texts["good"] + texts["note"]
    kept = mild.model_copy(update={"change": Change(change=0.0, low=-0.1, high=0.1)})
    assert "at most 6.0" in table(flagged(kept, 0.02, "blur"))["good"]
    moved = mild.model_copy(update={"change": Change(change=0.1, low=0.01, high=0.2)})
    assert "at most 14.0" in table(flagged(moved, 0.0999, "blur"))["note"]
    assert not any("Mild shifts" in text for text in said(found, shifts=None).values())


def test_what_flags_a_shift_is_named(found: Evaluation) -> None:
    assert found.shifts is not None
    harsh = found.shifts.shifts[1]
    over = dict.fromkeys(harsh.over, 0.1) | {"knn": 0.9, "energy": 0.6, "pds": 1.0, "ice": 1.0}
    decided = Deciding(flagged=18, shares={Family.CONFIDENCE: 0.2, Family.DENSITY: 0.8})
    row = harsh.model_copy(update={"over": over, "decided": decided})
    texts = said(found, shifts=found.shifts.model_copy(update={"rows": (found.shifts.unshifted, row)}))
    line = next(line for line in texts["weak"].splitlines() if line.startswith("Mild shifts")).replace("\xa0", " ")
    # PDS and ICE are no part of this guard's fused score.
    assert "harsh: 100.0 % (density decides 80 %; highest: knn, energy, amp). " in line

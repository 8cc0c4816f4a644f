"""The first screen: is this guard good enough? Plain sentences from an evaluation's numbers."""

from __future__ import annotations

from collections.abc import Iterator

from oodguard.core.fusion import MIN_LEFT_OUT_AUROC
from oodguard.core.scores import REGISTRY, Family
from oodguard.evaluation.comparison import points
from oodguard.evaluation.evaluation import DetectionTable, Evaluation
from oodguard.evaluation.evidence import FUSED
from oodguard.evaluation.extremes import ID
from oodguard.evaluation.report.advice import another_target, collect, keep_out, photos_of, taken_for
from oodguard.evaluation.report.answers import answer_findings
from oodguard.evaluation.report.shifts import shift_findings
from oodguard.evaluation.threshold import best
from oodguard.pages.page import Fact, Finding, Tone
from oodguard.pages.text import count, interval, percent
from oodguard.training.heads.collusion import members_agree
from oodguard.training.metrics import Share
from oodguard.training.photos.duplicates import duplicate_lines
from oodguard.training.photos.faults import passed_lines

GOOD_LET_IN, WEAK_LET_IN = 0.05, 0.20
WEAK_CALIBRATION = 0.05
WEAK_RECALL = 0.5
# A single score that lets in fewer by so much is worth a sentence: the best of eight is chosen on these very images.
WORSE_THAN_SINGLE = 0.02
IDLE_FAMILY = 0.01
CHANCE = 0.5
FEW_IMAGES = 100
SMALL_GAIN = 0.005
NAMED = 6


def facts(found: Evaluation) -> tuple[Fact, ...]:
    """The numbers of the first screen."""
    accepted, (low, high) = found.acceptance[FUSED], found.promised
    items = [
        Fact(name="Accuracy, ID test", value=percent(found.accuracy.share), detail=with_interval(found.accuracy)),
        Fact(name="ID test images accepted", value=percent(accepted.share), detail=with_interval(accepted)),
        Fact(
            name="Acceptance promised",
            value=f"{100 * found.accept:g} %",
            detail=f"{interval(low, high)} to be expected of {count(accepted.of, 'test image')} with "
            f"{count(found.calibration_groups, 'group')} of calibration images",
        ),
    ]
    return tuple(items)


def findings(found: Evaluation) -> tuple[Finding, ...]:
    """What to know before trusting the guard; weaknesses first."""
    everything = [
        *_photos(found),
        *_acceptance(found),
        *(finding for name, table in found.ood.items() for finding in _set(found, name, table)),
        *_near(found),
        *shift_findings(found),
        *_baselines(found),
        *answer_findings(found),
        *_families(found),
        *_members(found),
        *_labels(found),
        *_ensemble(found),
    ]
    return tuple(sorted(everything, key=lambda finding: ("weak", "note", "good").index(finding.tone)))


def _photos(found: Evaluation) -> Iterator[Finding]:
    """What makes the other figures false."""
    faults = found.faults
    if faults is None:
        return
    if faults.duplicates is not None:
        tone: Tone = "note" if faults.duplicates.action == "drop" else "weak"
        for line in duplicate_lines(faults.duplicates):
            yield Finding(tone, f"{line[0].upper()}{line[1:]}.")
    for line in passed_lines(faults):
        yield Finding("note", f"{line[0].upper()}{line[1:]}.")
    if faults.grey_levels is not None:
        yield Finding("weak", f"{faults.grey_levels.sentence}.")


def with_interval(found: Share) -> str:
    """`80.9 to 84.6 % (95 % interval), n = 1,704`."""
    return f"{interval(found.low, found.high)} (95 % interval), n = {found.of:,}"


def _acceptance(found: Evaluation) -> Iterator[Finding]:
    accepted, (low, high) = found.acceptance[FUSED], found.promised
    realised = f"{percent(accepted.share)} of {count(accepted.of, 'ID test image')} are accepted"
    expected = f"with a target of {100 * found.accept:g} %, {interval(low, high)} was to be expected"
    if accepted.share < low:
        yield Finding(
            "weak",
            f"The promise is not kept: only {realised}; {expected}. The test photos differ from the "
            "calibration photos in more than chance: train with photos like those that will arrive, "
            f"or ask for a higher --accept.{another_target(found)}",
        )
    elif accepted.share > high:
        yield Finding(
            "weak",
            f"More is accepted than asked for: {realised}; {expected}. OOD images pass more easily "
            "than they need to: calibrate on more photos (--calibration-fraction, --cross-fit), or "
            f"ask for a lower --accept.{another_target(found)}",
        )
    else:
        yield Finding("good", f"The promise is kept: {realised}; {expected}.")
    if not found.ood and not found.leave_out:
        yield Finding(
            "weak",
            "No OOD set was given, so nothing here says what gets through. Add sets with --ood name=folder"
            + (", or leave classes out with --leave-out." if found.wrapped is None else "."),
        )


def _set(found: Evaluation, name: str, table: DetectionTable) -> Iterator[Finding]:
    fused = table.at_threshold[FUSED]
    passed = round(fused.let_in.share * table.images)
    tone = _tone(fused.let_in.share)
    yield Finding(
        tone,
        f"{name}: {passed:,} of {count(table.images, 'image')} get through at the threshold "
        f"({percent(fused.let_in.share)}, {interval(fused.let_in.low, fused.let_in.high)}), where "
        f"{percent(fused.accepted.share)} of ID test is accepted"
        + (f"{taken_for(table)}. {keep_out(found, name)}" if tone == "weak" else "."),
    )
    single = best(table.at_threshold)
    change = table.at_threshold[single].fused_less_this
    if change.low > 0 and change.change > WORSE_THAN_SINGLE:
        yield Finding(
            "weak",
            f"{name}: {single} alone, at its own threshold, lets in fewer than the fused score "
            f"({percent(table.at_threshold[single].let_in.share)} against "
            f"{percent(fused.let_in.share)}: {points(change)}). If such images are what arrives, "
            "decide by that score: every answer holds it.",
        )
    if table.images < FEW_IMAGES:
        yield Finding("note", f"{name} has {count(table.images, 'image')}: too few to tell small rates apart.")


def _tone(let_in: float) -> Tone:
    return "good" if let_in <= GOOD_LET_IN else "weak" if let_in > WEAK_LET_IN else "note"


def _near(found: Evaluation) -> Iterator[Finding]:
    if not found.leave_out:
        return
    rates = [table.at_threshold[FUSED].let_in.share for table in found.leave_out.values()]
    mean = sum(rates) / len(rates)
    tone = _tone(mean)
    advice = " Collect photos of what may arrive and is no class of yours, and give them with train --outliers."
    yield Finding(
        tone,
        "Classes that look like the known ones but were left out of training: "
        f"{percent(mean)} of their images get through at the threshold (mean of "
        f"{count(len(rates), 'draw')}, {percent(min(rates))} to {percent(max(rates))})."
        + (advice if tone == "weak" else ""),
    )


def _baselines(found: Evaluation) -> Iterator[Finding]:
    """The one line, and a weakness for each set on which a baseline is better by more than chance."""
    sets = {**found.ood, **{f"left-out classes, {name}": table for name, table in found.leave_out.items()}}
    beaten = False
    for name, table in sets.items():
        rivals = [k for k, point in table.baselines.items() if point.fused_less_this.low > 0]
        if rivals:
            beaten = True
            rival = best({k: table.baselines[k] for k in rivals})
            point = table.baselines[rival]
            yield Finding(
                "weak",
                f"{name}: a baseline of thirty lines, {rival}, lets in fewer than the guard "
                f"({percent(point.let_in.share)} against "
                f"{percent(table.at_threshold[FUSED].let_in.share)}: {points(point.fused_less_this)}; "
                f"it accepts {percent(point.accepted.share)} of ID test). Compare the scores in the "
                "table of that set; "
                + (
                    "give train --outliers like these, a higher --retain where they are far OOD, or --cross-fit 5."
                    if found.wrapped is None
                    else "give wrap --outliers like these."
                ),
            )
    change = found.comparison.accuracy_change
    if change is not None and change.high < 0:
        beaten = True
        yield Finding(
            "weak",
            "Logistic regression on the frozen feature predicts more photos rightly than the guard "
            f"({points(change)}). Train longer (--epochs, --fine-tune-epochs) or with a lower --fine-tune-lr."
            if found.wrapped is None
            else f"Logistic regression on its own feature predicts more photos rightly than {found.wrapped} "
            f"({points(change)}): its last layers could be trained better. The guard leaves its "
            "predictions as they are.",
        )
    yield Finding("note" if beaten or found.comparison.skipped else "good", found.comparison.sentence)


def _families(found: Evaluation) -> Iterator[Finding]:
    """A family that decides next to nothing, on any set, cannot flag anything at this target."""
    decisions = {ID: found.decided, **{name: table.decided for name, table in found.ood.items()}}
    flagged = sum(decision.flagged for decision in decisions.values())
    kinds = {
        Family.CONFIDENCE: "OOD images that resemble a class pass unseen",
        Family.DENSITY: "OOD images that resemble no class pass where the heads are sure",
    }
    for family, means in kinds.items():
        if flagged and all(decision.shares[family] < IDLE_FAMILY for decision in decisions.values()):
            joined = found.fusion.shares[family] > 0
            advice = (
                "train again with --check-folds 3, which chooses the shares anew, or ask for a lower --accept"
                if joined
                else "no score of it joined: see what chose the fused score, and train with --outliers or more classes"
            )
            yield Finding(
                "weak",
                f"The {family} family cannot flag anything at this target: it decides less than 1 % of the "
                f"{count(flagged, 'flagged image')}, so {means}. What to do: {advice}.",
            )


def _members(found: Evaluation) -> Iterator[Finding]:
    """Scores below chance, and scores that failed the check, in the fused score and out of it."""
    failed = found.fusion.check.failed if found.fusion.check is not None else {}
    for name in found.fusion.weights:
        for key, table in found.ood.items():
            measured = table.scores[name]
            if measured.auroc_interval[1] < CHANCE:
                yield Finding(
                    "weak",
                    f"{key}: {name} is below chance (AUROC {percent(measured.auroc)}) and has "
                    f"{percent(found.fusion.weights[name], 0)} of the fused score. Train again with "
                    "another --seed or --outliers; if it stays so, decide by another score.",
                )
        if name in failed:
            only = REGISTRY[name].family is Family.DENSITY
            yield Finding(
                "weak",
                f"{name} does not tell classes left out of training (AUROC {failed[name]:.1f} %, at "
                f"least {MIN_LEFT_OUT_AUROC:.0f} % are asked for) and is in the fused score all the "
                "same"
                + (
                    ", for far OOD. Near OOD rests on the confidence scores: measure it with --leave-out."
                    if only
                    else ". Train again with --check-folds 3."
                ),
            )
    for name, value in failed.items():
        if REGISTRY[name].fused and name not in found.fusion.weights:
            yield Finding(
                "note",
                f"{name} is left out of the fused score: it does not tell classes left out of "
                f"training (AUROC {value:.1f} %).",
            )


def _labels(found: Evaluation) -> Iterator[Finding]:
    if found.calibration_error > WEAK_CALIBRATION:
        direction = "low" if found.confidence < found.accuracy.share else "high"
        yield Finding(
            "weak",
            f"Probabilities are too {direction}: {percent(found.confidence)} on average where "
            f"{percent(found.accuracy.share)} of predictions are right (expected calibration error "
            f"{percent(found.calibration_error)}). The test photos differ from those that trained in "
            "more than chance: train with photos like those that will arrive, or recalibrate the bundle "
            "on labelled photos. OOD flags do not depend on it.",
        )
    poor = sorted((r.share, name) for name, r in found.recalls.items() if r.share < WEAK_RECALL)
    if poor:
        listed = ", ".join(_poor(found, name) for _, name in poor[:NAMED])
        more = f" and {len(poor) - NAMED} more" if len(poor) > NAMED else ""
        yield Finding(
            "weak",
            f"Predicted rightly less than half of the time: {listed}{more}. "
            + collect(found, [name for _, name in poor]),
        )
    if found.wrong_flagged is not None:
        wrong = found.wrong_flagged
        yield Finding(
            "note",
            f"Of {count(wrong.of, 'ID test image')} with a wrong prediction, {percent(wrong.share)} "
            f"({interval(wrong.low, wrong.high)}) are flagged: a guard against strangers catches "
            "few mistakes among known classes.",
        )


def _poor(found: Evaluation, name: str) -> str:
    """`skirt (17 % of 12 test images; most often predicted pants, 5; 45 photos to train on)`."""
    right = found.recalls[name]
    instead = next((c for c in found.confusions if c.true == name), None)
    parts = [f"{percent(right.share, 0)} of {count(right.of, 'test image')}"]
    parts += [] if instead is None else [f"most often predicted {instead.predicted}, {instead.images}"]
    parts += filter(None, [photos_of(found, name)])
    return f"{name} ({'; '.join(parts)})"


def _ensemble(found: Evaluation) -> Iterator[Finding]:
    mean = sum(found.member_accuracy) / len(found.member_accuracy)
    worth, loss = found.diversity.ambiguity, found.diversity.ensemble_loss
    if members_agree(worth, loss):
        yield Finding(
            "weak",
            f"The members agree: averaging them is worth {worth:.4f} nats of a loss of {loss:.4f}, "
            "and the ensemble adds next to nothing. "
            + (
                "Raise --disagreement, or give --outliers with --ensemble a2d; PDS says little until then."
                if found.wrapped is None
                else "PDS says little; another --seed or more photos may change that."
            ),
        )
    elif found.wrapped is None and found.accuracy.share - mean < SMALL_GAIN:
        yield Finding(
            "note",
            "Averaging the members hardly helps their predictions: "
            f"{percent(found.accuracy.share)} are right, against {percent(mean)} of a member's on "
            "average.",
        )
    known = found.diversity.mean_disagreement[ID]
    for name, rate in found.diversity.mean_disagreement.items():
        if name != ID and rate <= known:
            yield Finding(
                "weak",
                f"{name}: the members disagree no more ({percent(rate)} of images) than on ID test "
                f"({percent(known)}), so their disagreement says little there. Rely on the fused "
                "score, or raise --disagreement.",
            )

"""The first screen: is this guard good enough? Plain sentences from an evaluation's numbers."""

from __future__ import annotations

from collections.abc import Iterator

from oodguard.evaluation.evaluation import DetectionTable, Evaluation
from oodguard.evaluation.evidence import FUSED
from oodguard.evaluation.extremes import ID
from oodguard.pages.page import Fact, Finding, Tone
from oodguard.pages.text import count, interval, percent
from oodguard.training.metrics import Share

GOOD_FPR, WEAK_FPR = 0.05, 0.20
WEAK_CALIBRATION = 0.05
WEAK_RECALL = 0.5
WORSE_AUROC = 0.01
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
            detail=f"{interval(low, high)} to be expected with {count(found.calibration_images, 'calibration image')}",
        ),
    ]
    return tuple(items)


def best_single(table: DetectionTable) -> str:
    """The single score with the highest AUROC; chosen on these very images, so it flatters that score a little."""
    return max((name for name in table.scores if name != FUSED), key=lambda name: table.scores[name].auroc)


def findings(found: Evaluation) -> tuple[Finding, ...]:
    """What to know before trusting the guard; weaknesses first."""
    everything = [
        *_acceptance(found),
        *(finding for name, table in found.ood.items() for finding in _set(name, table)),
        *_near(found),
        *_labels(found),
        *_ensemble(found),
    ]
    return tuple(sorted(everything, key=lambda finding: ("weak", "note", "good").index(finding.tone)))


def with_interval(found: Share) -> str:
    """`80.9 to 84.6 % (95 % interval), n = 1,704`."""
    return f"{interval(found.low, found.high)} (95 % interval), n = {found.of:,}"


def _acceptance(found: Evaluation) -> Iterator[Finding]:
    accepted, (low, high) = found.acceptance[FUSED], found.promised
    realised = f"{percent(accepted.share)} of {count(accepted.of, 'ID test image')} are accepted"
    expected = f"with a target of {100 * found.accept:g} %, {interval(low, high)} was to be expected"
    if accepted.high < low:
        yield Finding("weak", f"The promise is not kept: only {realised}; {expected}. The test images may differ from "
                              "the training images in more than chance.")  # fmt: skip
    elif accepted.low > high:
        yield Finding("weak", f"More is accepted than asked for: {realised}; {expected}. OOD images pass more easily "
                              "than they need to.")  # fmt: skip
    else:
        yield Finding("good", f"The promise is kept: {realised}; {expected}.")
    if not found.ood and not found.leave_out:
        yield Finding("weak", "No OOD set was given, so nothing here says what gets through. Add sets with "
                              "--ood name=folder, or leave classes out with --leave-out.")  # fmt: skip


def _set(name: str, table: DetectionTable) -> Iterator[Finding]:
    fused = table.scores[FUSED]
    missed = round((1 - fused.ood_flagged) * table.images)
    sentence = (
        f"{name}: {missed:,} of {count(table.images, 'image')} get through at the calibrated threshold; with 95 % of "
        f"ID test accepted it is {percent(fused.ood_accepted_at_95_id)} ({interval(*fused.ood_accepted_interval)})."
    )
    rate = fused.ood_accepted_at_95_id
    yield Finding(_tone(rate), sentence)
    best = best_single(table)
    if table.scores[best].auroc - fused.auroc > WORSE_AUROC:
        yield Finding("weak", f"{name}: {best} alone separates better than the fused score (AUROC "
                              f"{percent(table.scores[best].auroc)} against {percent(fused.auroc)}).")  # fmt: skip
    if table.images < FEW_IMAGES:
        yield Finding("note", f"{name} has {count(table.images, 'image')}: too few to tell small rates apart.")


def _tone(missed: float) -> Tone:
    return "good" if missed <= GOOD_FPR else "weak" if missed > WEAK_FPR else "note"


def _near(found: Evaluation) -> Iterator[Finding]:
    if not found.leave_out:
        return
    rates = [table.scores[FUSED].ood_accepted_at_95_id for table in found.leave_out.values()]
    mean = sum(rates) / len(rates)
    yield Finding(_tone(mean), "Classes that look like the known ones but were left out of training: "
                               f"{percent(mean)} of their images get through with 95 % of ID test accepted (mean of "
                        f"{count(len(rates), 'draw')}, {percent(min(rates))} to {percent(max(rates))}).")  # fmt: skip


def _labels(found: Evaluation) -> Iterator[Finding]:
    if found.calibration_error > WEAK_CALIBRATION:
        direction = "low" if found.confidence < found.accuracy.share else "high"
        yield Finding("weak", f"Probabilities are too {direction}: {percent(found.confidence)} on average where "
                              f"{percent(found.accuracy.share)} of labels are right (expected calibration error "
                              f"{percent(found.calibration_error)}). Do not read them as chances; OOD flags do not "
                              "depend on it.")  # fmt: skip
    poor = sorted((r.share, name) for name, r in found.recalls.items() if r.share < WEAK_RECALL)
    if poor:
        listed = ", ".join(f"{name} ({100 * share:.0f} % of {found.recalls[name].of})" for share, name in poor[:NAMED])
        more = f" and {len(poor) - NAMED} more" if len(poor) > NAMED else ""
        yield Finding("weak", f"Labelled rightly less than half of the time: {listed}{more}.")
    if found.wrong_flagged is not None:
        wrong = found.wrong_flagged
        yield Finding("note", f"Of {count(wrong.of, 'wrongly labelled ID test image')}, {percent(wrong.share)} "
                              f"({interval(wrong.low, wrong.high)}) are flagged: a guard against strangers catches "
                              "few mistakes among known classes.")  # fmt: skip


def _ensemble(found: Evaluation) -> Iterator[Finding]:
    mean = sum(found.member_accuracy) / len(found.member_accuracy)
    if found.accuracy.share - mean < SMALL_GAIN:
        yield Finding("note", "Averaging the members' predictions hardly helps the labels: "
                              f"{percent(found.accuracy.share)} are right, against {percent(mean)} of a member's on "
                              "average.")  # fmt: skip
    known = found.diversity.mean_disagreement[ID]
    for name, rate in found.diversity.mean_disagreement.items():
        if name != ID and rate <= known:
            yield Finding("weak", f"{name}: the members disagree no more ({percent(rate)} of images) than on ID test "
                                  f"({percent(known)}), so their disagreement says little there.")  # fmt: skip

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from oodguard.evaluation.baselines import NEIGHBOUR
from oodguard.evaluation.comparison import compare_baselines, points
from oodguard.evaluation.evidence import Evidence, PlainEvidence
from oodguard.evaluation.threshold import AtThreshold
from oodguard.training.metrics import Change, Share, share_change

SPACE, MINUS = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}"


def at(let_in: float, change: Change) -> AtThreshold:
    whole = Share(share=let_in, low=0.0, high=1.0, of=100)
    return AtThreshold(accepted=whole, let_in=whole, fused_less_this=change, auroc=0.9)


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.001, 0.04, "worse"), (-0.01, 0.04, "level"), (-0.06, -0.01, "better")]
)
def test_one_line_says_better_or_worse_with_the_paired_interval(
    evidence: Evidence, low: float, high: float, word: str
) -> None:
    change = Change(change=0.03, low=low, high=high)
    best = {NEIGHBOUR: at(0.02, change), "other": at(0.9, Change(change=-0.85, low=-0.9, high=-0.8))}
    found = compare_baselines(evidence, {"far": at(0.05, change)}, {"far": best})
    figures = points(change)
    assert f"on far {word} (5.0{SPACE}% let in against 2.0{SPACE}% by fifth neighbour: {figures});" in found.sentence
    assert "\n" not in found.sentence
    assert found.skipped == ""


def test_accuracy_is_compared_on_the_same_images(evidence: Evidence) -> None:
    plain = evidence.plain.baselines
    assert plain is not None
    found = compare_baselines(evidence, {}, {})
    assert found.accuracy is not None
    assert found.accuracy.share == plain.right.mean()
    assert found.accuracy_change == share_change(plain.right, evidence.right)
    assert found.accuracy_change.change == pytest.approx(evidence.right.mean() - plain.right.mean())
    wrong = replace(evidence, plain=replace(evidence.plain, baselines=replace(plain, right=np.zeros(240, dtype=bool))))
    assert "accuracy better" in compare_baselines(wrong, {}, {}).sentence
    sure = replace(evidence, plain=replace(evidence.plain, baselines=replace(plain, right=np.ones(240, dtype=bool))))
    assert "accuracy worse" in compare_baselines(sure, {}, {}).sentence


def test_baselines_that_were_skipped_say_why(evidence: Evidence) -> None:
    without = replace(evidence, plain=PlainEvidence(baselines=None, leak={}, skipped="its weights were random"))
    found = compare_baselines(without, {}, {})
    assert found.sentence == "The baselines were skipped: its weights were random."
    assert (found.accuracy, found.accuracy_change, found.skipped) == (None, None, "its weights were random")


def test_points_of_a_change() -> None:
    assert points(Change(change=0.008, low=-0.001, high=0.0194)) == f"+0.8 points, {MINUS}0.1 to +1.9"

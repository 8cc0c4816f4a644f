from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from oodguard.core.label_sets import Nonconformity
from oodguard.core.targets import Targets
from oodguard.core.verdict import Decision
from oodguard.evaluation.answered import FUSED_ALONE, SERVED, SOFTMAX, answered, worse_classes
from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.evidence import FUSED, Evidence
from oodguard.evaluation.report.answers import answer_findings
from oodguard.pages.page import Finding
from oodguard.training.metrics import Share, share


def test_decisions_are_those_that_are_served(found: Evaluation, evidence: Evidence) -> None:
    assert found.answered is not None
    calibration, said = evidence.record.calibration, evidence.test.answers
    thresholds = calibration.thresholds(0.95)
    chances = calibration.chances(said.probabilities)
    passed = said.fused(calibration) <= thresholds.fused
    answer = passed & (chances.max(1) >= thresholds.least_chance)
    assert 0 < answer.sum() < passed.sum() < len(passed)
    assert found.answered.decisions == {
        Decision.ANSWER: share(answer),
        Decision.UNSURE: share(passed & ~answer),
        Decision.STRANGER: share(~passed),
    }
    assert found.answered.errors == share(~evidence.right[answer])


def test_label_sets_are_counted_among_the_images_that_pass(found: Evaluation, evidence: Evidence) -> None:
    assert found.answered is not None
    calibration = evidence.record.calibration
    assert calibration.answering is not None
    chances = calibration.chances(evidence.test.answers.probabilities)
    passed = evidence.test.values[FUSED] <= calibration.thresholds(0.95).fused
    for coverage in (0.8, 0.9, 0.95):
        cut = calibration.thresholds(0.95, coverage=coverage).label_cut
        sets = [calibration.answering.set_size(sorted(row.tolist(), reverse=True), cut) for row in chances[passed]]
        served = next(s for s in found.answered.label_sets[found.answered.chosen] if s.coverage == coverage)
        assert served.mean_size == pytest.approx(np.mean(sets))
        assert served.covered.of == passed.sum()
    assert set(found.answered.label_sets) == set(Nonconformity)
    sizes = [s.mean_size for s in found.answered.label_sets[Nonconformity.LAC]]
    assert sizes == sorted(sizes)


def test_risk_is_the_mean_error_over_all_shares_answered(evidence: Evidence) -> None:
    found = answered(evidence, evidence.test.values[FUSED], Targets())
    assert found is not None
    order = np.argsort(-evidence.test.answers.probabilities.max(1), kind="stable")
    wrong = ~evidence.right[order]
    errors = [wrong[:k].mean() for k in range(1, len(wrong) + 1)]
    assert found.risk[SOFTMAX].aurc == pytest.approx(np.mean(errors))
    assert found.risk[SOFTMAX].curve[-1] == (1.0, pytest.approx(wrong.mean()))
    assert set(found.risk) == {SERVED, SOFTMAX, FUSED_ALONE}
    assert found.errors is not None
    good = [k for k, error in enumerate(errors, start=1) if error <= found.errors.share + 1e-12]
    assert found.risk[SOFTMAX].answered == pytest.approx(max(good, default=0) / len(wrong))


def test_scores_of_probabilities_by_hand(found: Evaluation, evidence: Evidence) -> None:
    assert found.answered is not None
    raw, true = evidence.test.answers.probabilities.astype(float), evidence.targets
    brier = np.mean([sum((p[c] - (c == y)) ** 2 for c in range(3)) for p, y in zip(raw, true, strict=True)])
    assert found.answered.chances.raw_brier == pytest.approx(brier)
    assert found.answered.chances.raw_log_loss == pytest.approx(-np.log(raw[np.arange(240), true]).mean())
    assert found.answered.chances.calibration_error == found.calibration_error


def test_a_run_that_knows_no_classes_has_no_answers(evidence: Evidence) -> None:
    calibration = evidence.record.calibration.model_copy(update={"answering": None})
    record = evidence.record.model_copy(update={"calibration": calibration})
    assert answered(replace(evidence, record=record), evidence.test.values[FUSED], Targets()) is None


def part(accepted: int, of: int) -> Share:
    return share(np.arange(of) < accepted)


def test_only_classes_that_chance_does_not_excuse_are_named() -> None:
    by_class = {"a": part(50, 100), "b": part(7, 10), "c": part(20, 100), "d": part(95, 100)}
    assert worse_classes(by_class, 0.85) == ("c", "a")


def test_findings_say_what_is_not_kept(found: Evaluation) -> None:
    assert found.answered is not None
    good = found.answered.model_copy(
        update={
            "errors": part(3, 100),
            "promised_errors": (0.02, 0.08),
            "by_class": {"a": part(95, 100)},
        }
    )

    def findings(answered: Any) -> list[Finding]:
        return list(answer_findings(found.model_copy(update={"answered": answered})))

    assert findings(good)[0].tone == "good"
    wrong = good.model_copy(update={"errors": part(9, 100), "by_class": {"a": part(50, 100)}})
    texts = [f.text for f in findings(wrong) if f.tone == "weak"]
    assert any("More answers are wrong than asked for: 9.0\u00a0% of the 100 answers" in text for text in texts)
    assert any("Accepted clearly less often than others: a (50\u00a0% of 100)" in text for text in texts)
    none = good.model_copy(update={"errors": None})
    assert "no prediction is safe enough" in findings(none)[0].text

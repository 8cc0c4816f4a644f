from __future__ import annotations

import pytest

from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.evidence import FUSED
from oodguard.evaluation.report.summary import best_single, findings
from oodguard.training.metrics import Share


def said(found: Evaluation, **changes: object) -> dict[str, str]:
    """Every tone's sentences, of an evaluation with some numbers changed."""
    tones: dict[str, str] = {"good": "", "weak": "", "note": ""}
    for finding in findings(found.model_copy(update=changes)):
        tones[finding.tone] += finding.text + "\n"
    return tones


@pytest.mark.parametrize(
    ("realised", "tone", "words"),
    [
        (Share(share=0.85, low=0.82, high=0.88, of=1000), "weak", "The promise is not kept"),
        (Share(share=0.95, low=0.93, high=0.96, of=1000), "good", "The promise is kept"),
        (Share(share=0.91, low=0.89, high=0.93, of=1000), "good", "The promise is kept"),
        (Share(share=0.995, low=0.985, high=1.0, of=1000), "weak", "More is accepted than asked for"),
    ],
)
def test_the_promise_is_judged_with_both_uncertainties(
    found: Evaluation, realised: Share, tone: str, words: str
) -> None:
    texts = said(found, acceptance={**found.acceptance, FUSED: realised}, promised=(0.92, 0.97))
    assert words in texts[tone]


def test_a_set_is_weak_when_a_fifth_gets_through_and_when_one_score_is_better_alone(found: Evaluation) -> None:
    table = found.ood["far"]
    fused = table.scores[FUSED].model_copy(update={"ood_accepted_at_95_id": 0.3, "ood_flagged": 0.75, "auroc": 0.9})
    knn = table.scores["knn"].model_copy(update={"auroc": 0.95})
    others = {name: d.model_copy(update={"auroc": 0.8}) for name, d in table.scores.items()}
    worse = table.model_copy(update={"scores": {**others, FUSED: fused, "knn": knn}})
    assert best_single(worse) == "knn"
    texts = said(found, ood={"far": worse})
    assert "far: 15 of 60 images get through" in texts["weak"]
    assert "knn alone separates better" in texts["weak"]
    assert "far has 60 images: too few" in texts["note"]


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
    assert "b (10 % of 20), a (40 % of 20).\n" in said(found, recalls=recalls)["weak"]


def test_members_that_agree_on_strangers_are_a_weakness(found: Evaluation) -> None:
    rates = {"ID test": 0.2, "far": 0.1, "near": 0.5}
    texts = said(found, diversity=found.diversity.model_copy(update={"mean_disagreement": rates}))
    assert "far: the members disagree no more" in texts["weak"]
    assert "near: the members" not in texts["weak"]


def test_weaknesses_come_first(found: Evaluation) -> None:
    tones = [finding.tone for finding in findings(found)]
    assert tones == sorted(tones, key=("weak", "note", "good").index)

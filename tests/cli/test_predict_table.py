"""The table of `oodguard predict` fits the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodguard.cli.predict import _print_table, counted
from oodguard.core.answers import Prediction
from oodguard.core.codes import Code
from oodguard.core.problems import Problem, problem
from oodguard.core.verdict import Decision


def prediction(decision: Decision, *labels: str) -> Prediction:
    return Prediction(
        index=0, label=labels[0], class_index=0, probability=0.926, top_k=(), labels=labels,
        decision=decision, scores={}, is_ood=decision is Decision.STRANGER, ood_score=12.57, threshold=6.15,
        percentile=50.0,
    )  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 160])
def test_every_column_is_seen_and_label_sets_are_folded_before_paths(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    results: list[tuple[Path, Prediction | Problem]] = [
        (Path("photos/test/jade/000.jpg"), prediction(Decision.UNSURE, "jade", "plum", "amber")),
        (Path("bad.jpg"), problem(Code.EMPTY, "the image is empty")),
        (Path("b.jpg"), prediction(Decision.STRANGER, "jade")),
        (Path("c.jpg"), prediction(Decision.ANSWER, "jade")),
    ]
    _print_table(results, explained=False)
    shown = capsys.readouterr().out
    assert all(len(line) <= width for line in shown.splitlines())
    for word in ("path", "label", "probability", "decision", "ood_score", "threshold", "6.15", "12.57", "failed"):
        assert word in shown
    if width >= 100:
        assert "photos/test/jade/000.jpg" in shown
    assert counted(results) == "4 images: 2 known (1 of them unsure of the label), 1 stranger, 1 could not be used"
    assert counted(results[2:]) == "2 images: 1 known, 1 stranger"
    assert counted(results[3:]) == "1 image: 1 known, 0 strangers"

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from oodguard.evaluation.evaluate import examine
from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.evidence import FUSED, Evidence
from oodguard.evaluation.report.markdown import as_markdown, to_markdown
from oodguard.evaluation.report.summary import findings
from oodguard.pages.page import Table

DASH = "\N{EN DASH}"


@pytest.fixture(scope="module")
def text(found: Evaluation) -> str:
    return to_markdown(found)


def test_the_line_about_the_baselines_and_every_finding_are_said_once(text: str, found: Evaluation) -> None:
    assert text.count(found.comparison.sentence) == 1
    for finding in findings(found):
        assert text.count(finding.text) == 1
        if finding.text != found.comparison.sentence:
            assert f"- **{finding.tone.capitalize()}** {finding.text}" in text


def test_what_is_let_in_stands_before_the_figures_over_all_thresholds(text: str, found: Evaluation) -> None:
    fused = found.ood["far"].at_threshold[FUSED]
    section = text[text.index("## far (60 images)") :]
    row = next(line for line in section.splitlines() if line.startswith("| **fused** |"))
    low, high = (f"{100 * bound:.1f}" for bound in (fused.let_in.low, fused.let_in.high))
    assert f"| **{100 * fused.let_in.share:.1f} ({low}{DASH}{high})** |" in row
    assert section.index("every score at its own threshold") < section.index("AUPR-in")
    assert "| baseline: fifth neighbour |" in section
    assert "Which family decides" in text
    assert "| grouped | 95.0 | 96.0 |" in text


def test_every_row_of_a_table_has_the_columns_of_its_head(text: str) -> None:
    width = None
    for line in text.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        assert width in (None, cells), line
        width = cells


def test_mild_shifts_have_a_section_where_they_were_asked_for(text: str, found: Evaluation) -> None:
    section = text[text.index("## Mild shifts") :]
    assert "the same 18 test photos (at most 6 of each of 3 classes)" in section
    assert "| harsh | a shop | 100.0 (" in section
    assert "## Mild shifts" not in to_markdown(found.model_copy(update={"shifts": None}))


def test_a_table_in_markdown() -> None:
    table = Table(caption="Cap", head=("a", "b"), rows=(("x|y", "1"), ("z", "2")), note="So.", strong=frozenset({1}))
    assert as_markdown(table) == [
        "Cap:", "", "| a | b |\n|---|---|", "| x\\|y | 1 |", "| **z** | **2** |", "", "So."
    ]  # fmt: skip


def test_without_ood_sets_repeats_and_baselines_the_rest_is_said(evidence: Evidence) -> None:
    plain = replace(evidence.plain, baselines=None, leak={}, skipped="its weights were random")
    said = to_markdown(examine(replace(evidence, ood={}, plain=plain)))
    assert "The baselines were skipped: its weights were random." in said
    for absent in ("Which family decides", "Other trainings", "calibration split"):
        assert absent not in said
    assert "What the fused score is made of" in said

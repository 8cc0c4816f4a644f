from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from xml.etree.ElementTree import Element

import pytest

from oodguard.evaluation.evaluate import examine
from oodguard.evaluation.evaluation import Evaluation
from oodguard.evaluation.evidence import FUSED, Evidence
from oodguard.evaluation.report.document import to_html

Parse = Callable[[str], Element]
DASH, MINUS, SPACE = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def page(found: Evaluation, evidence: Evidence) -> str:
    return to_html(found, evidence)


@pytest.fixture(scope="module")
def tree(page: str, parse_page: Parse) -> Element:
    return parse_page(page)


def table(tree: Element, caption: str) -> dict[str, dict[str, str]]:
    """A table by row name and column name."""
    for element in tree.iter("table"):
        if "".join(element.find("caption").itertext()).startswith(caption):
            head, *rows = (["".join(cell.itertext()) for cell in row] for row in element.iter("tr"))
            return {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    raise AssertionError(caption)


def test_the_page_is_valid_complete_and_small(page: str, tree: Element) -> None:
    assert len(page.encode()) < 3_000_000
    assert [h.text for h in tree.iter("h2")][1:] == [
        "At the threshold", "What the fused score is made of", "Other trainings",
        "Scores and thresholds", "Detection by OOD set", "Acceptance against the threshold",
        "Ablation of the fused score", "Answers, label sets, and acceptance by class",
        "Classes left out of training", "Mild shifts", "Most and least divergent images",
        "Predictions: confusion",
        "Predictions: calibration of probabilities", "Ensemble diagnostics", "How this was made",
    ]  # fmt: skip
    assert sum(e.tag.endswith("svg") for e in tree.iter() if isinstance(e.tag, str)) == 9


def test_the_same_evaluation_gives_the_same_bytes(page: str, found: Evaluation, evidence: Evidence) -> None:
    assert to_html(found, evidence) == page
    assert page.count(found.created) == 2


def test_the_first_screen_has_the_numbers_of_the_json(tree: Element, found: Evaluation) -> None:
    values = ["".join(dd.itertext()) for dd in tree.iter("dd")]
    accepted = found.acceptance[FUSED]
    assert values[0].startswith(f"{100 * found.accuracy.share:.1f}{SPACE}%")
    assert f"{100 * accepted.low:.1f} to {100 * accepted.high:.1f}{SPACE}%" in values[1]
    assert f"{100 * found.promised[0]:.1f} to {100 * found.promised[1]:.1f}{SPACE}%" in values[2]
    rows = table(tree, "What is let in at the threshold")
    for name, ood in found.ood.items():
        fused = ood.at_threshold[FUSED]
        low, high = ood.scores[FUSED].auroc_interval
        assert rows[name]["AUROC"] == f"{100 * ood.scores[FUSED].auroc:.1f} ({100 * low:.1f}{DASH}{100 * high:.1f})"
        assert rows[name]["let in"].startswith(f"{100 * fused.let_in.share:.1f} (")
        assert rows[name]["images"] == str(ood.images)
        for column, points in (("best single score", ood.at_threshold), ("best baseline", ood.baselines)):
            least = min(point.let_in.share for key, point in points.items() if key != FUSED)
            key, figure = rows[name][column].split(": ")
            assert (points[key].let_in.share, figure) == (least, f"{100 * least:.1f}")
        change = ood.baselines[rows[name]["best baseline"].split(": ")[0]].fused_less_this.change
        assert rows[name]["fused less it, points"].replace(MINUS, "-").startswith(signed(100 * change))
    said = ["".join(li.itertext()) for li in tree.iter("li")]
    assert any(line.endswith(found.comparison.sentence) for line in said)


def signed(value: float) -> str:
    return f"{value:+.1f} (" if round(value, 1) else "0.0 ("


def test_every_score_and_baseline_stands_at_its_own_threshold(tree: Element, found: Evaluation) -> None:
    rows = table(tree, "far: every score at its own threshold")
    far = found.ood["far"]
    assert list(rows) == [*far.at_threshold, *(f"baseline: {name}" for name in far.baselines)]
    for name, point in [*far.at_threshold.items(), *((f"baseline: {k}", v) for k, v in far.baselines.items())]:
        assert rows[name]["let in"].startswith(f"{100 * point.let_in.share:.1f} (")
        assert rows[name]["ID test accepted"].startswith(f"{100 * point.accepted.share:.1f} (")
    decided = table(tree, "Which family decides")
    assert decided["ID test"]["flagged images"] == str(found.decided.flagged)
    assert decided["far"]["density"] == f"{100 * far.decided.shares['density']:.1f}"


def test_left_out_classes_are_judged_at_the_threshold_too(tree: Element, found: Evaluation) -> None:
    rows = table(tree, "Let in of the classes left out")
    draw = found.leave_out["draw 1"]
    assert list(rows) == [*draw.at_threshold, *(f"baseline: {name}" for name in draw.baselines)]
    pds = draw.at_threshold["pds"].let_in.share
    assert rows["pds"]["draw 1 (60 images)"].startswith(f"{100 * pds:.1f} (")
    assert rows["pds"]["mean"] == f"{100 * pds:.1f}"
    decided = table(tree, "Which family decides")
    assert decided["left-out classes, draw 2"] == {
        "set": "left-out classes, draw 2", "flagged images": "60", "confidence": "25.0", "density": "75.0"
    }  # fmt: skip


def test_the_check_that_chose_the_fused_score_is_shown(tree: Element, found: Evaluation) -> None:
    rows = table(tree, "The scores on classes left out of training")
    assert rows["ice"] == {
        "score": "ice", "family": "confidence", "AUROC": "31.5", "let in where 95 % of ID are": "98.5",
        "part of the fused score": "left out: fails",
    }  # fmt: skip
    # Four confidence scores have 7/10 together, two density scores the rest.
    assert rows["energy"]["part of the fused score"] == "17.5"
    assert rows["knn"]["part of the fused score"] == "15.0"
    assert rows["pds"]["part of the fused score"] == "-"
    tried = table(tree, "What the fused score lets in of left-out classes")
    assert tried["70"]["let in where 95 % of ID are"] == "43.5"
    caption = "What the fused score lets in of left-out classes"
    (shares,) = (t for t in tree.iter("table") if "".join(t.find("caption").itertext()).startswith(caption))
    strong = [row for row in shares.iter("tr") if row.get("class")]
    assert ["".join(row[0].itertext()) for row in strong] == ["70"]


def test_the_scatter_over_trainings_is_shown(tree: Element) -> None:
    rows = table(tree, "Over 3 trainings")
    assert list(rows["accuracy"].items()) == [
        ("figure", "accuracy"), ("lowest", "81.0"), ("median", "83.0"), ("highest", "85.0"),
        ("seed 3", "81.0"), ("seed 4", "85.0"), ("seed 5", "83.0"),
    ]  # fmt: skip
    assert (rows["ID test accepted"]["lowest"], rows["far let in"]["median"]) == ("93.0", "1.0")


def test_mild_shifts_have_their_own_rows(tree: Element, found: Evaluation) -> None:
    assert found.shifts is not None
    rows = table(tree, "Test photos after mild shifts")
    assert list(rows) == ["as they are", "<i>mild</i>", "harsh"]
    assert (rows["as they are"]["change, points"], rows["harsh"]["made by"]) == ("-", "a shop")
    assert rows["harsh"]["flagged"].startswith("100.0 (81.5")
    change = found.shifts.shifts[1].change
    assert rows["harsh"]["change, points"].startswith(f"+{100 * change.change:.1f} (+{100 * change.low:.1f} to")
    assert rows["harsh"]["flagged of right predictions"].startswith("100.0 (")
    decided = found.shifts.shifts[1].decided.shares
    assert rows["harsh"]["density decides"] == f"{100 * decided['density']:.1f}"
    over = table(tree, "Shifted test photos above each score's own threshold")
    assert over["harsh"]["knn"] == "100.0"
    assert over["<i>mild</i>"]["knn"] == f"{100 * found.shifts.shifts[0].over['knn']:.1f}"


def test_weaknesses_are_said_in_sentences(tree: Element, found: Evaluation) -> None:
    said = {li.get("class"): [] for li in tree.iter("li") if li.get("class")}
    for li in tree.iter("li"):
        if li.get("class"):
            said[li.get("class")].append("".join(li.itertext()))
    near = found.ood['near "<script>"'].at_threshold[FUSED].let_in
    assert any('near "<script>": ' in s and f"({100 * near.share:.1f}{SPACE}%, " in s for s in said["weak"])
    assert any("far: 0 of 60 images get through" in s for s in said["good"])


def numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(item)
            if re.fullmatch(r"[\d.]+", key):
                yield float(key)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def test_tables_show_no_number_that_is_not_in_the_json(tree: Element, found: Evaluation) -> None:
    allowed = {f"{k}" for k in (1, 5, 25, 50, 75, 95, 100)}
    values = list(numbers(found.model_dump(mode="json")))
    values += [c.images / c.of for c in found.confusions]
    values += [t.scores[name].auroc for t in found.leave_out.values() for name in t.scores]  # the mean of equal draws
    for x in values:
        allowed |= {
            f"{100 * x:.1f}",
            f"{abs(100 * x):.1f}",
            f"{x:.1f}",
            f"{100 * x:g}",
            f"{abs(100 * x):.2f}",
            f"{x:.2f}",
            f"{x:.4f}",
            f"{abs(x):.4g}",
            f"{x:.0f}",
        }
    checked = 0
    for element in tree.iter("table"):
        caption = "".join(element.find("caption").itertext())
        if caption.startswith(("Versions", "Options")):
            continue
        for cell in element.iter("td"):
            if "words" in (cell.get("class") or ""):
                continue
            for number in re.findall(r"\d[\d.]*(?:e[+-]?\d+)?", "".join(cell.itertext())):
                checked += 1
                assert number in allowed, (caption, number)
    assert checked > 400


def test_ablation_and_confusion_tables_are_the_jsons(tree: Element, found: Evaluation) -> None:
    rows = table(tree, "far: the fused score with parts left out")
    assert list(rows) == list(found.ood["far"].ablation)
    change = found.ood["far"].ablation["without energy"].auroc_change.change
    assert (
        rows["without energy"]["change of AUROC, points"]
        .replace(MINUS, "-")
        .startswith(f"{100 * change:+.2f}" if round(100 * change, 2) else "0.00")
    )
    confusions = table(tree, "The most frequent confusions")
    first = found.confusions[0]
    assert confusions[first.true]["images"].endswith(f" of {first.of}")


def test_galleries_show_the_extremes_and_survive_a_lost_image(tree: Element, found: Evaluation) -> None:
    shown = [s for s in tree.iter("section") if s.get("class") == "gallery"]
    assert len(shown) == len(found.extremes) == 12
    for section, end in zip(shown, found.extremes, strict=True):
        items = section.findall("ul/li")
        assert len(items) == len(end.images)
        for item, image in zip(items, end.images, strict=True):
            text = "".join(item.itertext())
            assert f"fused score {image.fused:.2f}" in text
            assert ("missed" in text or "wrongly flagged" in text) == (image.flagged == (end.set == "ID test"))
            assert (item.find("img") is None) == (image.row == 0)


def test_without_ood_sets_the_report_says_so(evidence: Evidence, parse_page: Parse) -> None:
    bare = replace(evidence, ood={}, calibration=None)
    text = to_html(examine(bare), bare)
    tree = parse_page(text)
    assert "No OOD set was given" in "".join(tree.itertext())
    assert "Ablation" not in text

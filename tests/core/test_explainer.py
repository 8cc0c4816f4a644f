from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from oodguard.core.bank import Bank
from oodguard.core.curve import QuantileCurve
from oodguard.core.errors import FormatError, QualityError
from oodguard.core.explainer import Explainer, parts_of
from oodguard.core.fusion import FusedFamily, Fusion
from oodguard.core.manifest import load_manifest
from oodguard.core.scores import Family, ScoreName
from oodguard.core.verdict import Measured, Outputs

# 99 values: level of the r-th is r / 100, the knee is at 90 and the mean excess above it is 5.
CURVE = QuantileCurve.fit(np.arange(1, 100))
SURPRISES = QuantileCurve.fit(np.arange(1, 100) / 20)
BANK = Bank(class_indices=(0, 1, 2, 1), sha256=tuple(f"{place:064x}" for place in range(4)))


def test_the_parts_by_hand() -> None:
    fusion = Fusion(
        families=(
            FusedFamily(
                family=Family.CONFIDENCE, share=0.75, scores=(ScoreName.AMP, ScoreName.ENERGY), curve=SURPRISES
            ),
            FusedFamily(family=Family.DENSITY, share=0.25, scores=(ScoreName.KNN,), curve=SURPRISES),
        ),
        curve=CURVE,
    )
    values = {ScoreName.AMP: 50.0, ScoreName.PDS: 99.0, ScoreName.ENERGY: 80.0, ScoreName.KNN: 99.0}
    curves = dict.fromkeys(values, CURVE)
    families, scores = parts_of(fusion, curves, values)
    # Density: u(99) = log 10 + 9 / 5. Confidence: u(50) = log 2 and u(80) = log 5.
    assert [part.family for part in families] == [Family.DENSITY, Family.CONFIDENCE]
    assert [part.share for part in families] == [0.25, 0.75]
    assert [part.term - part.surprise for part in families] == pytest.approx([math.log(0.25), math.log(0.75)])
    assert [part.name for part in scores] == [ScoreName.KNN, ScoreName.ENERGY, ScoreName.AMP]
    assert [part.family for part in scores] == [Family.DENSITY, Family.CONFIDENCE, Family.CONFIDENCE]
    assert [part.surprise for part in scores] == pytest.approx([math.log(10) + 9 / 5, math.log(5), math.log(2)])
    assert [part.percentile for part in scores] == pytest.approx([98.0, 79.0, 49.0])
    # The terms are what the fused score is made of.
    columns = {name: np.array([value]) for name, value in values.items()}
    assert np.logaddexp.reduce([part.term for part in families]) == pytest.approx(fusion.score(curves, columns)[0])
    assert {part.family: part.term for part in families} == pytest.approx(
        {family: term[0] for family, term in fusion.by_family(curves, columns).items()}
    )


def measured(bundle: Path, neighbours: list[int], distances: list[float]) -> tuple[Explainer, Measured]:
    manifest = load_manifest(bundle)
    row = [
        curve.values[-1] if name == "knn" else curve.values[0] for name, curve in manifest.calibration.curves.items()
    ]
    outputs = Outputs(
        probabilities=np.array([[0.2, 0.7, 0.1]], dtype=np.float32),
        scores=np.array([row], dtype=np.float32),
        neighbours=np.array([neighbours], dtype=np.int32),
        distances=np.array([distances], dtype=np.float32),
    )
    return Explainer(manifest, BANK), manifest.measure(outputs)


def test_density_decides_and_the_photos_are_named(bundle: Path) -> None:
    explainer, found = measured(bundle, [3, 0, 2], [0.25, 0.5, 0.75])
    explanation = explainer.explain(found, 0)
    assert explanation.decided_by is Family.DENSITY
    assert (explanation.scores[0].name, explanation.scores[0].family) == (ScoreName.KNN, Family.DENSITY)
    assert {part.name for part in explanation.scores} == set(explainer.manifest.calibration.fusion.scores)
    assert [(one.label, one.class_index, one.distance, one.sha256[-1]) for one in explanation.neighbours] == [
        ("jade", 1, 0.25, "3"), ("amber", 0, 0.5, "0"), ("plum", 2, 0.75, "2"),
    ]  # fmt: skip


def test_photos_at_the_same_distance_come_in_the_banks_order(bundle: Path) -> None:
    explainer, found = measured(bundle, [3, 1, 0], [0.5, 0.5, 0.25])
    assert [one.sha256[-1] for one in explainer.explain(found, 0).neighbours] == ["0", "1", "3"]


def test_without_a_bank_the_scores_alone_are_explained(bundle: Path) -> None:
    explainer, found = measured(bundle, [3, 1, 0], [0.5, 0.5, 0.25])
    alone = Explainer(explainer.manifest).explain(found, 0)
    assert alone.neighbours == ()
    assert alone.scores == explainer.explain(found, 0).scores
    assert Explainer.load(bundle, explainer.manifest).bank is None


def test_a_bank_of_another_model_is_refused(bundle: Path) -> None:
    explainer, found = measured(bundle, [4, 1, 0], [0.1, 0.5, 0.75])
    with pytest.raises(QualityError, match="bank of discs has not"):
        explainer.explain(found, 0)
    with pytest.raises(FormatError, match="names a class"):
        Explainer(explainer.manifest, Bank(class_indices=(3,), sha256=("0" * 64,)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"class_indices":[0],"sha256":[]}', "sha256"),
        ('{"class_indices":[0,1],"sha256":["' + "0" * 64 + '"]}', "same length"),
        ('{"class_indices":[-1],"sha256":["' + "0" * 64 + '"]}', "class_indices.0"),
        ('{"class_indices":[0],"sha256":["../../etc"]}', "sha256.0"),
        ("[", "damaged"),
    ],
)
def test_a_damaged_bank_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bank.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=why):
        Bank.read(path)
    with pytest.raises(FormatError, match="incomplete"):
        Bank.read(tmp_path / "none" / "bank.json")

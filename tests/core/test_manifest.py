"""The manifest, its verification and its verdicts, without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from oodguard.core.errors import FormatError, QualityError
from oodguard.core.manifest import MANIFEST_FILE, FileRef, Manifest, load_manifest
from oodguard.core.verdict import Outputs


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    shutil.copytree(bundle, target)
    return target


def edit(bundle: Path, **changes: object) -> None:
    path = bundle / MANIFEST_FILE
    raw = json.loads(path.read_text())
    raw.update(changes)
    path.write_text(json.dumps(raw))


def outputs(manifest: Manifest, quantile: float, images: int = 1) -> Outputs:
    """Outputs whose every score sits at a quantile of its ID curve."""
    probabilities = np.tile(np.array([0.2, 0.7, 0.1], dtype=np.float32), (images, 1))
    curves = manifest.calibration.curves.values()
    row = [curve.values[int(quantile * (len(curve.values) - 1))] for curve in curves]
    return Outputs(probabilities=probabilities, scores=np.tile(np.array(row, dtype=np.float32), (images, 1)))


def test_an_exported_bundle_verifies(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert (manifest.name, manifest.version) == ("discs", "7")
    assert manifest.classes == ("amber", "jade", "plum")
    assert {ref.path for ref in manifest.files} >= {"model.onnx", *(g.path for g in manifest.golden)}


def test_judge_reads_label_scores_and_thresholds(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    (inside,) = manifest.judge(outputs(manifest, 0.5), top_k=2)
    assert (inside.label, inside.class_index) == ("jade", 1)
    assert [c.label for c in inside.top_k] == ["jade", "amber"]
    assert inside.is_ood is False
    assert not any(score.is_ood for score in inside.scores.values())
    (outside,) = manifest.judge(outputs(manifest, 1.0))
    assert outside.is_ood is (outside.ood_score > outside.threshold)
    assert outside.is_ood is True
    assert outside.percentile > inside.percentile


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"bank": "bank.json"}, "outputs must be probabilities, scores, neighbours, distances"),
        ({"thumbnails": "thumbnails.zip"}, "thumbnails need a bank"),
    ],
)
def test_photos_and_outputs_belong_together(copy: Path, changes: dict[str, str], why: str) -> None:
    edit(copy, **changes)
    with pytest.raises(FormatError, match=why):
        load_manifest(copy)


def test_a_bank_is_one_of_the_files(copy: Path) -> None:
    more = [
        {"name": "neighbours", "dtype": "int32", "shape": ["batch", 3]},
        {"name": "distances", "dtype": "float32", "shape": ["batch", 3]},
    ]
    outputs = [spec.model_dump(mode="json") for spec in load_manifest(copy).outputs]
    edit(copy, bank="bank.json", outputs=outputs + more)
    with pytest.raises(FormatError, match=r"bank\.json is not in the list of files"):
        load_manifest(copy)


def test_accept_moves_the_thresholds(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    found = outputs(manifest, 0.9)
    strict = manifest.judge(found, targets=manifest.targets.but(accept=0.6))[0]
    loose = manifest.judge(found, targets=manifest.targets.but(accept=manifest.max_accept))[0]
    assert strict.is_ood is True
    assert loose.is_ood is False
    assert strict.ood_score == loose.ood_score
    assert strict.threshold < loose.threshold
    with pytest.raises(ValueError, match="accept"):
        manifest.judge(found, targets=manifest.targets.but(accept=0.9999))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_never_a_verdict(bundle: Path, value: float) -> None:
    manifest = load_manifest(bundle)
    found = outputs(manifest, 0.5)
    found.scores[0, 2] = value
    with pytest.raises(QualityError, match="not finite"):
        manifest.judge(found)


def test_wrong_shapes_are_never_a_verdict(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    found = outputs(manifest, 0.5)
    with pytest.raises(QualityError, match="returned"):
        manifest.judge(Outputs(probabilities=found.probabilities[:, :2], scores=found.scores))


def test_damage_is_refused_in_one_sentence(copy: Path) -> None:
    golden = next((copy / "golden").iterdir())
    data = golden.read_bytes()
    golden.write_bytes(data[:-1] + b"x")
    with pytest.raises(FormatError, match="SHA-256"):
        load_manifest(copy)
    golden.unlink()
    with pytest.raises(FormatError, match="missing"):
        load_manifest(copy)
    golden.write_bytes(data)
    load_manifest(copy)
    edit(copy, surprise=1)
    with pytest.raises(FormatError, match="surprise"):
        load_manifest(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2; this oodguard reads version 4"),
        ({"classes": ["a", "a", "b"]}, "repeat"),
        ({"name": "../up"}, "name"),
        ({"files": []}, "not in the list"),
    ],
)
def test_schemas_that_do_not_fit_are_refused(copy: Path, changes: dict[str, object], message: str) -> None:
    edit(copy, **changes)
    with pytest.raises(FormatError, match=message):
        load_manifest(copy)


def test_no_manifest_and_no_json(copy: Path) -> None:
    (copy / MANIFEST_FILE).write_text("{")
    with pytest.raises(FormatError, match="not valid JSON"):
        load_manifest(copy)
    (copy / MANIFEST_FILE).unlink()
    with pytest.raises(FormatError, match="not a bundle"):
        load_manifest(copy)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "a\\b"])
def test_files_stay_inside_the_bundle(path: str) -> None:
    with pytest.raises(ValueError, match="leaves the bundle"):
        FileRef(path=path, bytes=1, sha256="0" * 64)

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from oodguard.core.errors import FormatError, InputError, QualityError
from oodguard.core.manifest import GRAPH_FILE, load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.verdict import Outputs
from oodguard.export import bundle as bundling
from oodguard.export.fuse import FusedGuard
from oodguard.export.graph import run_graph, session
from oodguard.export.parity import compare, require
from oodguard.training.run import load_run


def pixels(bundle: Path) -> np.ndarray:
    manifest = load_manifest(bundle)
    return np.stack([load_pixels((bundle / g.path).read_bytes(), manifest.preprocessing) for g in manifest.golden])


def test_folded_heads_answer_as_the_plain_ones(run: Path, bundle: Path) -> None:
    loaded, images = load_run(run), pixels(bundle)
    probabilities, scores = loaded.predict(images)
    with torch.no_grad():
        fused_probabilities, fused_scores, _, _ = FusedGuard(loaded)(torch.from_numpy(images))
    np.testing.assert_allclose(fused_probabilities, probabilities, atol=1e-5)
    assert load_manifest(bundle).calibration.score_errors(scores, fused_scores.numpy()).max() < 1e-4


def test_the_graph_is_one_file_with_the_promised_tensors(bundle: Path) -> None:
    model = onnx.load(bundle / GRAPH_FILE, load_external_data=False)
    assert all(t.data_location != onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
    (taken,) = model.graph.input
    assert taken.name == "images"
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert taken.type.tensor_type.shape.dim[0].dim_param
    assert [o.name for o in model.graph.output] == ["probabilities", "scores", "neighbours", "distances"]
    metadata = {p.key: p.value for p in model.metadata_props}
    assert (metadata["oodguard.name"], metadata["oodguard.version"]) == ("discs", "7")


def test_batches_answer_as_single_images_do(bundle: Path) -> None:
    running, images = session((bundle / GRAPH_FILE).read_bytes()), pixels(bundle)
    together = run_graph(running, images)
    for i in range(len(images)):
        alone = run_graph(running, images[i : i + 1])
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[i], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(alone.scores[0], together.scores[i], rtol=1e-4, atol=1e-5)


def test_golden_answers_are_in_the_manifest(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    found = run_graph(session((bundle / GRAPH_FILE).read_bytes()), pixels(bundle))
    np.testing.assert_allclose(found.probabilities.sum(1), 1.0, atol=1e-5)
    for golden, verdict, row in zip(manifest.golden, manifest.judge(found), found.scores, strict=True):
        assert (golden.label, golden.is_ood) == (verdict.label, verdict.is_ood)
        np.testing.assert_allclose(golden.scores, row, rtol=1e-3, atol=1e-4)


def test_the_gate_closes_on_every_kind_of_difference(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    good = run_graph(session((bundle / GRAPH_FILE).read_bytes()), pixels(bundle))
    require(compare(manifest.calibration, good, good))
    off = good.scores.copy()
    off[0, 3] += 1.0
    with pytest.raises(QualityError, match="ensemble_entropy"):
        require(compare(manifest.calibration, good, Outputs(probabilities=good.probabilities, scores=off)))
    rolled = np.roll(good.probabilities, 1, axis=1)
    with pytest.raises(QualityError, match="probabilities"):
        require(compare(manifest.calibration, good, Outputs(probabilities=rolled, scores=good.scores)))
    labels = compare(manifest.calibration, good, Outputs(probabilities=rolled, scores=good.scores))
    with pytest.raises(QualityError, match="labels"):
        require(labels.model_copy(update={"max_probability_error": 0.0}))


def test_a_graph_that_fails_the_gate_is_not_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Off(FusedGuard):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
            probabilities, scores, neighbours, distances = super().forward(images)
            return probabilities, scores * 1.001, neighbours, distances

    monkeypatch.setattr(bundling, "FusedGuard", Off)
    with pytest.raises(QualityError, match="nothing was exported"):
        bundling.export_bundle(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bad_targets_and_runs_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    with pytest.raises(InputError, match="not a bundle"):
        bundling.export_bundle(run, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep me"
    with pytest.raises(FormatError, match="not a finished run"):
        bundling.export_bundle(tmp_path / "mine", tmp_path / "out")

"""The whole way on small photos: what training measured is what the service answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from oodguard.core import preprocessing as preprocess
from oodguard.core.manifest import Outputs, load_manifest
from oodguard.evaluation.evaluate import evaluate
from oodguard.evaluation.evaluation import read_evaluation
from oodguard.server.app import create_gateway
from oodguard.server.settings import ServeSettings
from oodguard.training.heads.guard import fit_heads
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from oodguard.training.record import load_record
from oodguard.training.run import load_run


def test_training_learns_and_keeps_its_promise(run: Path) -> None:
    record = load_record(run)
    assert record.metrics["test_accuracy"] > 0.9
    assert 0.8 < record.metrics["test_acceptance"] <= 1.0
    assert record.splits.train + record.splits.calibration == 180
    assert {p.suffix for p in run.rglob("*") if p.is_file()} <= {
        ".json",
        ".safetensors",
        ".jpg",
        ".md",
        ".html",
        ".npy",
    }


def test_the_same_seed_gives_the_same_numbers(options: TrainOptions, run: Path, tmp_path: Path) -> None:
    again = train(options, tmp_path / "again")
    first = load_record(run)
    assert again.weights_sha256 == first.weights_sha256
    assert again.curves == first.curves
    assert again.fusion == first.fusion
    other = train(options.model_copy(update={"seed": 1}), tmp_path / "other")
    assert other.weights_sha256 != first.weights_sha256


def test_pytorch_and_the_service_agree_on_every_test_image(run: Path, bundle: Path, photos: Path) -> None:
    loaded, manifest = load_run(run), load_manifest(bundle)
    paths = sorted((photos / "test").rglob("*.jpg"))[::3]
    pixels = np.stack([preprocess.load_pixels(p.read_bytes(), manifest.preprocessing) for p in paths])
    probabilities, scores = loaded.predict(pixels)
    verdicts = manifest.judge(Outputs(probabilities=probabilities, scores=scores))
    with TestClient(create_gateway(ServeSettings(bundle=bundle, watch=False)).public) as client:
        files = [("image", (p.name, p.read_bytes())) for p in paths]
        served = client.post("/predict", files=files).json()["predictions"]
    for verdict, answer in zip(verdicts, served, strict=True):
        assert (answer["label"], answer["is_ood"]) == (verdict.label, verdict.is_ood)
        assert answer["ood_score"] == pytest.approx(verdict.ood_score, rel=1e-3, abs=1e-3)


def test_training_and_server_call_the_same_image_function() -> None:
    from oodguard.server import service
    from oodguard.training.backbone import features

    assert service.load_pixels is preprocess.load_pixels
    assert features.to_pixels is preprocess.to_pixels
    assert features.open_image is preprocess.open_image


def test_evaluation_reports_every_score_and_left_out_classes(run: Path, strangers: Path) -> None:
    found = evaluate(run, ood={"noise": strangers}, leave_out=1, draws=1)
    names = {"pds", "amp", "energy", "ensemble_entropy", "one_minus_bma", "ice", "knn", "mahalanobis", "fused"}
    assert set(found.ood["noise"].scores) == names == set(found.acceptance)
    assert found.ood["noise"].scores["fused"].ood_accepted_at_95_id == 0.0
    assert len(found.member_accuracy) == 5
    assert found.promised[0] < 0.95 < found.promised[1]
    assert 0.0 <= found.leave_out["draw 1"].scores["fused"].auroc <= 1.0
    assert found.leave_out["draw 1"].images == 15
    saved = json.loads((run / "evaluation.json").read_text())
    assert saved["accuracy"]["of"] == 45
    assert "| fused |" in (run / "evaluation.md").read_text()
    # The calibration images were found again: their own thresholds accept what was promised of them.
    for row in found.ood["noise"].ablation.values():
        assert row.id_accepted is not None
    whole = found.ood["noise"].ablation["fused"].id_accepted
    assert whole == found.acceptance["fused"]
    assert found.thresholds["fused"] == load_record(run).fusion.curve.threshold(0.95)
    assert found.diversity.ambiguity >= 0
    assert found == read_evaluation(run)
    assert "Classes left out of training" in (run / "report.html").read_text(encoding="utf-8")


def test_head_training_is_deterministic_and_learns(options: TrainOptions) -> None:
    torch.manual_seed(0)
    targets = torch.arange(120) % 3
    features = (torch.randn(2, 120, 32) + 3 * torch.eye(3, 32)[targets]).relu()
    small = options.model_copy(update={"epochs": 60, "lr": 0.005})
    a = fit_heads(features, targets, small, classes=3)
    b = fit_heads(features, targets, small, classes=3)
    logits, scores = a(features[0])
    torch.testing.assert_close(scores, b(features[0])[1], rtol=0, atol=0)
    assert (logits.mean(0).argmax(-1) == targets).float().mean() > 0.95
    assert scores.shape == (120, 8)

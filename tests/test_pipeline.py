"""The whole way on small photos: what training measured is what the service answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from starlette.testclient import TestClient

from oodguard.core.bank import BANK_FILE
from oodguard.core.errors import FormatError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import load_manifest
from oodguard.core.preprocessing import load_pixels
from oodguard.core.verdict import Outputs
from oodguard.evaluation.evaluate import evaluate
from oodguard.evaluation.evaluation import read_evaluation
from oodguard.evaluation.evidence import options_of, prepare
from oodguard.evaluation.shifts import SHIFTS
from oodguard.export.bundle import export_bundle
from oodguard.server.app import create_gateway
from oodguard.server.engines.fake import FakeEngine
from oodguard.server.settings import ServeSettings
from oodguard.training.backbone.features import Extractor
from oodguard.training.compute import cpu_threads
from oodguard.training.heads.guard import fit_heads
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import Photo
from oodguard.training.pipeline import train
from oodguard.training.record import CALIBRATION_FILE, DIVISION_FILE, RECORD_FILE, WEIGHTS_FILE, load_record
from oodguard.training.run import load_run

RAW = {"content-type": "application/octet-stream"}


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
    # As many threads as the shared guard was trained with.
    with cpu_threads(1):
        again = train(options, tmp_path / "again")
    first = load_record(run)
    assert again.weights_sha256 == first.weights_sha256
    assert again.calibration == first.calibration
    other = train(options.model_copy(update={"seed": 1}), tmp_path / "other")
    assert other.weights_sha256 != first.weights_sha256


def test_pytorch_and_the_service_agree_on_every_test_image(run: Path, bundle: Path, photos: Path) -> None:
    loaded, manifest = load_run(run), load_manifest(bundle)
    paths = sorted((photos / "test").rglob("*.jpg"))[::3]
    pixels = np.stack([load_pixels(p.read_bytes(), manifest.preprocessing) for p in paths])
    probabilities, scores = loaded.predict(pixels)
    verdicts = manifest.judge(Outputs(probabilities=probabilities, scores=scores))
    with TestClient(create_gateway(ServeSettings(bundle=bundle, watch=False)).public) as client:
        files = [("image", (p.name, p.read_bytes())) for p in paths]
        served = client.post("/predict", files=files).json()["predictions"]
    for verdict, answer in zip(verdicts, served, strict=True):
        assert (answer["label"], answer["is_ood"]) == (verdict.label, verdict.is_ood)
        assert answer["ood_score"] == pytest.approx(verdict.ood_score, rel=1e-3, abs=1e-3)


def test_training_and_the_server_see_the_same_pixels(run: Path, bundle: Path, tmp_path: Path) -> None:
    """What the trunk is given for a photo is what the engine is given, bit for bit."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (701, 912, 3), dtype=np.uint8)).resize((1824, 1402))
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright
    photo.save(tmp_path / "turned.jpg", quality=85, exif=exif)  # large enough to be reduced while it is decoded
    Image.fromarray(rng.integers(0, 65536, (90, 130)).astype(np.uint16)).save(tmp_path / "grey16.png")
    photo.resize((99, 77)).convert("P").save(tmp_path / "palette.gif")
    loaded, manifest = load_run(run), load_manifest(bundle)
    served: list[np.ndarray] = []
    trained: list[np.ndarray] = []

    class Seeing(FakeEngine):
        async def infer(self, images: np.ndarray) -> Outputs:
            served[:] = images.copy()
            return await super().infer(images)

    class Kept:
        name = "kept"

        def __call__(self, pixels: np.ndarray, identity: str) -> np.ndarray:
            trained[:] = [pixels]
            return pixels

    backbone, _ = prepare(loaded, options_of(loaded.record))
    extractor = Extractor(backbone, cache=tmp_path / "cache", alteration=Kept())
    settings = ServeSettings(bundle=bundle, watch=False)
    with TestClient(create_gateway(settings, engine=Seeing(bundle, manifest)).public) as client:
        for path in sorted(tmp_path.glob("*.*")):
            client.post("/predict", content=path.read_bytes(), headers=RAW).raise_for_status()
            extractor.extract([Photo(path=path, label="amber", sha256=file_sha256(path))])
            np.testing.assert_array_equal(trained[0], served[0])


def test_evaluation_reports_every_score_and_left_out_classes(run: Path, strangers: Path) -> None:
    found = evaluate(run, ood={"noise": strangers}, leave_out=1, draws=1, shifts=True)
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
    whole = found.ood["noise"].ablation["fused"].auroc_change
    assert (whole.change, whole.low, whole.high) == (0.0, 0.0, 0.0)
    assert found.thresholds["fused"] == load_record(run).calibration.thresholds(0.95).fused
    assert found.diversity.ambiguity >= 0
    assert found == read_evaluation(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Classes left out of training" in page
    assert "Test photos after mild shifts" in page
    assert found.shifts is not None
    assert found.shifts.unshifted.flagged.of == 18
    by_name = {row.name: row for row in found.shifts.shifts}
    assert len(by_name) == len(SHIFTS)
    # The photos are square: preprocessing cuts off what pads them to 16:9, up to its filter's reach.
    assert abs(by_name["padded to 16:9, black"].change.change) <= 1 / 18
    # Colour is all that tells the classes apart.
    assert by_name["grey"].accuracy.share < found.shifts.unshifted.accuracy.share
    assert by_name["grey"].flagged.share > 0.5
    assert saved["command"].endswith("--draws 1 --shifts")


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


def test_a_run_without_some_classes_is_evaluated_on_them(options: TrainOptions, tmp_path: Path) -> None:
    record = train(options.model_copy(update={"leave_out": 1}), tmp_path / "run")
    assert len(record.classes) == 2
    found = evaluate(tmp_path / "run", ood={})
    assert found.accuracy.of == 30
    assert set(found.ood) == {"left-out classes"}
    assert found.ood["left-out classes"].images == 15


def test_a_run_made_before_a_score_existed_still_works(
    run: Path, photos: Path, strangers: Path, tmp_path: Path
) -> None:
    """The record lists its scores; one that it does not list is not asked for."""
    old = tmp_path / "old"
    shutil.copytree(run, old)
    raw = json.loads((old / RECORD_FILE).read_text())
    del raw["files"]
    column = raw["heads"]["scores"].index("knn")
    raw["heads"]["scores"].remove("knn")
    del raw["calibration"]["curves"]["knn"]
    for family in raw["calibration"]["fusion"]["families"]:
        family["scores"] = [name for name in family["scores"] if name != "knn"]
    (old / RECORD_FILE).write_text(json.dumps(raw))
    arrays = safetensors.numpy.load_file(old / CALIBRATION_FILE)
    arrays["scores"] = np.delete(arrays["scores"], column, axis=1)
    safetensors.numpy.save_file(arrays, old / CALIBRATION_FILE)
    found = evaluate(old, ood={"noise": strangers})
    assert "knn" not in found.ood["noise"].scores
    assert found.ood["noise"].scores["fused"].auroc > 0.9
    manifest = export_bundle(old, tmp_path / "bundle")
    assert len(manifest.scores) == 7
    with TestClient(create_gateway(ServeSettings(bundle=tmp_path / "bundle", watch=False)).public) as client:
        image = (photos / "test" / "jade" / "000.jpg").read_bytes()
        (answer,) = client.post("/predict", content=image, headers=RAW).json()["predictions"]
    assert set(answer["scores"]) == set(manifest.score_names)


def test_a_run_of_another_format_is_one_sentence(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    raw = json.loads((old / RECORD_FILE).read_text())
    (old / RECORD_FILE).write_text(json.dumps({**raw, "format": 1}))
    with pytest.raises(FormatError, match=r"is a run of format 1, and this oodguard reads format 4; train it again$"):
        load_run(old)
    (old / RECORD_FILE).write_text("[]")
    with pytest.raises(FormatError, match="damaged"):
        load_run(old)
    (old / RECORD_FILE).write_text(json.dumps(raw))
    for name in (WEIGHTS_FILE, CALIBRATION_FILE, BANK_FILE):
        whole = (old / name).read_bytes()
        (old / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(FormatError, match=f"{name} was damaged or changed after training"):
            load_run(old)
        (old / name).write_bytes(whole)
    (old / DIVISION_FILE).unlink()
    with pytest.raises(FormatError, match=r"incomplete: it has no division\.json"):
        load_run(old)


def test_the_division_holds_every_photo_once_and_groups_stay_whole(run: Path, photos: Path) -> None:
    division = load_run(run).division
    parts = (division.training, division.calibration, division.test)
    found = [sha for part in parts for photos_of_class in part.values() for sha in photos_of_class]
    assert sorted(found) == sorted(file_sha256(path) for path in photos.rglob("*.jpg"))
    groups = [{g for photos_of_class in part.values() for g in photos_of_class.values()} for part in parts[:2]]
    assert not groups[0] & groups[1]
    assert {group for photos_of_class in division.test.values() for group in photos_of_class.values()} == {None}

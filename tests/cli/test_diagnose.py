"""Collusion, from training over diagnosis to export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch

from oodguard.cli.main import run as oodguard
from oodguard.core.errors import QualityError
from oodguard.core.files import file_sha256
from oodguard.core.manifest import load_manifest
from oodguard.export.bundle import export_bundle
from oodguard.training.record import RECORD_FILE, load_record
from oodguard.training.run import WEIGHTS_FILE


def test_a_healthy_run_says_so_on_photos_it_was_not_trained_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert oodguard(["diagnose", str(run), "--fail-on-collusion"]) == 0
    text = capsys.readouterr().out
    assert "healthy" in text
    assert oodguard(["diagnose", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["members"] == 5
    assert not found["colluding"]
    assert found["member_loss"] >= found["ensemble_loss"]
    assert set(found["codependence"]) == {"0.2", "0.4", "0.6"}


def test_members_with_opposite_biases_collude(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    state = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    state["heads.ensemble.bias2.0"][0, 0] += 30.0
    state["heads.ensemble.bias2.1"][0, 0] -= 30.0
    safetensors.torch.save_file(state, folder / WEIGHTS_FILE)
    raw = json.loads((folder / RECORD_FILE).read_text())
    (folder / RECORD_FILE).write_text(json.dumps({**raw, "weights_sha256": file_sha256(folder / WEIGHTS_FILE)}))
    assert oodguard(["diagnose", str(folder)]) == 0
    assert "colluding: " in capsys.readouterr().out
    assert oodguard(["diagnose", str(folder), "--fail-on-collusion"]) == 4


def test_the_manifest_keeps_what_training_found(run: Path, bundle: Path) -> None:
    assert load_manifest(bundle).diagnosis == load_record(run).diagnosis
    assert load_record(run).diagnosis is not None


def test_colluding_members_are_exported_only_on_request(run: Path, tmp_path: Path) -> None:
    record = load_record(run)
    assert record.diagnosis is not None
    colluding = record.diagnosis.model_copy(update={"colluding": True, "verdict": "colluding: made so by this test"})
    folder = tmp_path / "run"
    folder.mkdir()
    for path in run.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / RECORD_FILE).unlink()
    (folder / RECORD_FILE).write_text(record.model_copy(update={"diagnosis": colluding}).model_dump_json())
    with pytest.raises(QualityError, match=r"made so by this test.*--allow-collusion"):
        export_bundle(folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    manifest = export_bundle(folder, tmp_path / "bundle", allow_collusion=True)
    assert manifest.diagnosis == colluding


def test_what_cannot_train_is_refused_with_a_sentence(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert oodguard(["train", "--data", str(photos), "--out", "run", *arguments]) == 2
        return capsys.readouterr().err

    assert "lower --active" in refused("--active", "6")
    assert "--outliers" in refused("--ensemble", "a2d")
    assert "--ensemble joint" in refused("--beta", "0.5")
    assert "less than or equal to 1" in refused("--ensemble", "joint", "--beta", "1.5")
    assert "greater than or equal to 0" in refused("--disagreement", "-1")
    assert "greater than or equal to 2" in refused("--anchors", "1")

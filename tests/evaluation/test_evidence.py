from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from oodguard.core.errors import FormatError, InputError
from oodguard.core.files import file_sha256
from oodguard.evaluation.evidence import Evidence, gather, member_losses, options_of
from oodguard.training.heads.guard import GuardHeads, head_shapes
from oodguard.training.heads.rows import Rows
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import load_photos
from oodguard.training.progress import Silent
from oodguard.training.record import CALIBRATION_FILE, RECORD_FILE
from oodguard.training.run import Run, load_run


def gathered(run: Run, options: TrainOptions) -> Evidence:
    options = options.model_copy(update={"weights": options_of(run.record).weights})
    return gather(run, load_photos(options.data, options.cache), options, {}, Silent())


def test_a_run_answers_from_its_kept_division_without_its_weights_and_its_features(
    run: Path, options: TrainOptions, tmp_path: Path
) -> None:
    """Neither the weights it started from nor the photos it was calibrated on are needed."""
    loaded = load_run(run)
    elsewhere = tmp_path / "photos"
    shutil.copytree(options.data, elsewhere)
    for photo in (elsewhere / "train").rglob("*.jpg"):
        if hashlib.sha256(photo.read_bytes()).hexdigest() in loaded.division.calibration[photo.parent.name]:
            photo.unlink()
    moved = options.model_copy(update={"data": elsewhere, "cache": tmp_path / "cache", "weights": "absent.safetensors"})
    found = gather(loaded, load_photos(elsewhere, moved.cache), moved, {}, Silent())
    assert found.right.mean() == pytest.approx(loaded.record.metrics["test_accuracy"])
    assert all(len(values) == loaded.record.splits.calibration for values in found.calibration.values())
    assert found.plain.baselines is None
    assert found.plain.skipped == "weights file absent.safetensors does not exist"
    again = gathered(load_run(run), options)
    assert again.plain.skipped == ""
    assert again.plain.baselines is not None
    # What thirty lines reach on three colours: everything.
    assert again.plain.baselines.right.all()
    assert set(again.plain.leak) == {"random", "grouped"}
    kept = moved.model_copy(update={"weights": options.weights})
    without = gather(loaded, load_photos(elsewhere, moved.cache), kept, {}, Silent())
    assert without.plain.skipped == (
        f"{loaded.record.splits.calibration} of the {loaded.record.splits.calibration} photos that the run used are "
        "missing"
    )
    np.testing.assert_array_equal(again.test.answers.votes, found.test.answers.votes)


def test_missing_test_photos_are_counted(run: Path, options: TrainOptions, tmp_path: Path) -> None:
    elsewhere = tmp_path / "photos"
    shutil.copytree(options.data, elsewhere)
    for name in ("000.jpg", "001.jpg"):
        (elsewhere / "test" / "jade" / name).unlink()
    photos = load_photos(elsewhere, tmp_path)
    with pytest.raises(InputError, match="2 of the 45 photos that the run used are missing"):
        gather(load_run(run), photos, options, {}, Silent())


def test_calibration_scores_of_other_photos_are_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    arrays = safetensors.numpy.load_file(copy / CALIBRATION_FILE)

    def keep(**changes: np.ndarray) -> None:
        safetensors.numpy.save_file({**arrays, **changes}, copy / CALIBRATION_FILE)
        raw = json.loads((copy / RECORD_FILE).read_text())
        raw["files"][CALIBRATION_FILE] = file_sha256(copy / CALIBRATION_FILE)
        (copy / RECORD_FILE).write_text(json.dumps(raw))

    keep(scores=arrays["scores"] + 1.0)
    with pytest.raises(FormatError, match="set the thresholds"):
        load_run(copy)
    keep(scores=arrays["scores"][:, :3].copy())
    with pytest.raises(FormatError, match="8 scores"):
        load_run(copy)
    keep(groups=arrays["groups"][:5].copy())
    with pytest.raises(FormatError, match="photos"):
        load_run(copy)
    (copy / CALIBRATION_FILE).write_bytes(b"junk")
    with pytest.raises(FormatError, match="damaged"):
        load_run(copy)
    (copy / CALIBRATION_FILE).unlink()
    with pytest.raises(FormatError, match="incomplete"):
        load_run(copy)


def test_member_losses_are_cross_entropies() -> None:
    torch.manual_seed(0)
    options = TrainOptions(data=Path(), members=2, hidden=8)
    heads = GuardHeads(head_shapes(options, rows=Rows(4), classes=3, images=9))
    features = torch.randn(5, 4)
    targets = np.array([0, 1, 2, 2, 0])
    with torch.no_grad():
        p = heads.members(features).softmax(-1).numpy()
    expected = -np.log(p[:, np.arange(5), targets])
    np.testing.assert_allclose(member_losses(heads, features, targets), expected, rtol=1e-5)

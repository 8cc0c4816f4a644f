from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from oodguard.core.errors import FormatError
from oodguard.evaluation.evidence import Evidence, gather, member_losses, options_of
from oodguard.training.heads.guard import GuardHeads, head_shapes
from oodguard.training.options import TrainOptions
from oodguard.training.photos.labelled import load_photos
from oodguard.training.progress import Silent
from oodguard.training.record import CALIBRATION_FILE
from oodguard.training.run import Run, load_run


def gathered(run: Run, options: TrainOptions) -> Evidence:
    options = options.model_copy(update={"weights": options_of(run.record).weights})
    return gather(run, load_photos(options.data, options.cache), options, {}, Silent())


def test_calibration_scores_are_kept_or_found_again(run: Path, options: TrainOptions, tmp_path: Path) -> None:
    kept = gathered(load_run(run), options)
    assert kept.calibration is not None
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / CALIBRATION_FILE).unlink()
    again = gathered(load_run(copy), options)
    assert again.calibration is not None
    for name, values in kept.calibration.items():
        assert len(values) == kept.record.splits.calibration
        np.testing.assert_allclose(np.sort(again.calibration[name]), np.sort(values), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(again.inside.answers.votes, kept.inside.answers.votes)
    assert again.right.mean() == pytest.approx(kept.record.metrics["test_accuracy"])


def test_calibration_scores_of_other_images_are_not_used(run: Path, options: TrainOptions, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    table = np.load(copy / CALIBRATION_FILE)
    np.save(copy / CALIBRATION_FILE, table + 1.0)
    assert gathered(load_run(copy), options).calibration is None
    np.save(copy / CALIBRATION_FILE, table[:, :3])
    with pytest.raises(FormatError, match="8 scores"):
        load_run(copy)
    (copy / CALIBRATION_FILE).write_bytes(b"junk")
    with pytest.raises(FormatError, match="damaged"):
        load_run(copy)


def test_member_losses_are_cross_entropies() -> None:
    torch.manual_seed(0)
    options = TrainOptions(data=Path(), members=2, hidden=8)
    heads = GuardHeads(head_shapes(options, width=4, classes=3, images=9))
    features = torch.randn(5, 4)
    targets = np.array([0, 1, 2, 2, 0])
    with torch.no_grad():
        p = heads.members(features).softmax(-1).numpy()
    expected = -np.log(p[:, np.arange(5), targets])
    np.testing.assert_allclose(member_losses(heads, features, targets), expected, rtol=1e-5)

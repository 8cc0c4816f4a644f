"""Further trainings, done for real: other seeds, left-out classes, moved photos; and baselines of each kind of run."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from oodguard.core.errors import InputError
from oodguard.evaluation.diagnosis import diagnose_run
from oodguard.evaluation.evaluate import evaluate
from oodguard.evaluation.evaluation import JSON_FILE, MARKDOWN_FILE
from oodguard.evaluation.trainings import Scatter
from oodguard.training.backbone.timm_source import create
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train


@pytest.fixture(scope="module")
def quick(options: TrainOptions) -> TrainOptions:
    """A run without fine-tuning or a check, in a few seconds."""
    return options.model_copy(update={"fine_tune": False, "views": 0, "epochs": 2, "hidden": 8, "check_folds": 0})


def test_scatter_has_the_ends_and_the_median() -> None:
    found = Scatter.over([0.5, 0.9, 0.6])
    assert (found.lowest, found.median, found.highest, found.values) == (0.5, 0.6, 0.9, (0.5, 0.9, 0.6))
    assert Scatter.over([0.5, 0.9]).median == pytest.approx(0.7)


def test_repeats_are_trainings_with_the_next_seeds(quick: TrainOptions, strangers: Path, tmp_path: Path) -> None:
    train(quick.model_copy(update={"seed": 4}), tmp_path / "run")
    found = evaluate(tmp_path / "run", ood={"noise": strangers}, repeats=3, out=tmp_path / "out")
    repeats = found.repeats
    assert repeats is not None
    assert repeats.seeds == (4, 5, 6)
    assert repeats.accuracy.values[0] == found.accuracy.share
    assert repeats.acceptance.values[0] == found.acceptance["fused"].share
    assert repeats.let_in["noise"].values[0] == found.ood["noise"].at_threshold["fused"].let_in.share
    # What a training with the seed by itself gives is what stands there.
    train(quick.model_copy(update={"seed": 6}), tmp_path / "alone")
    alone = evaluate(tmp_path / "alone", ood={"noise": strangers})
    assert repeats.accuracy.values[2] == alone.accuracy.share
    assert repeats.acceptance.values[2] == alone.acceptance["fused"].share
    assert alone.repeats is None
    saved = json.loads((tmp_path / "out" / JSON_FILE).read_text())
    assert saved["repeats"]["acceptance"]["median"] == repeats.acceptance.median
    assert "--repeats 3" in saved["command"]
    text = (tmp_path / "out" / MARKDOWN_FILE).read_text()
    assert "Over 3 trainings with other seeds" in text
    assert found.comparison.sentence in text
    assert "baseline: larger of both ranks" in text


def test_photos_that_moved_are_found_where_data_says(quick: TrainOptions, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "before")
    train(quick.model_copy(update={"data": tmp_path / "before"}), tmp_path / "run")
    first = evaluate(tmp_path / "run", ood={})
    (tmp_path / "before").rename(tmp_path / "after")
    for ask in (partial(evaluate, ood={}), diagnose_run):
        with pytest.raises(InputError, match=r"the photos run was trained on are needed .*/before does not .* --data$"):
            ask(tmp_path / "run")
    assert diagnose_run(tmp_path / "run", data=tmp_path / "after").verdict
    found = evaluate(tmp_path / "run", ood={}, data=tmp_path / "after")
    assert found.accuracy == first.accuracy
    assert found.comparison == first.comparison
    assert found.comparison.accuracy is not None


def test_a_cross_fitted_run_has_baselines_and_no_leak(quick: TrainOptions, strangers: Path, tmp_path: Path) -> None:
    train(quick.model_copy(update={"cross_fit": 3}), tmp_path / "run")
    found = evaluate(tmp_path / "run", ood={"noise": strangers})
    assert found.calibration_images == 180
    assert found.leak == {}
    assert found.ood["noise"].baselines["fifth neighbour"].let_in.share == 0.0
    assert 0.8 < found.ood["noise"].baselines["larger of both ranks"].accepted.share <= 1.0


def test_random_weights_follow_from_the_seed_and_have_baselines(
    options: TrainOptions, strangers: Path, tmp_path: Path
) -> None:
    told = {"weights": "random", "views": 0, "fine_tune_epochs": 1, "epochs": 2, "hidden": 8, "check_folds": 0}
    random = options.model_copy(update=told)
    first, again = (train(random, tmp_path / name) for name in ("run", "again"))
    assert first.weights_sha256 == again.weights_sha256
    assert first.calibration == again.calibration
    other = train(random.model_copy(update={"seed": 1}), tmp_path / "other")
    assert other.backbone.weights_sha256 != first.backbone.weights_sha256
    found = evaluate(tmp_path / "run", ood={"noise": strangers})
    assert found.comparison.accuracy is not None
    assert "fifth neighbour" in found.ood["noise"].baselines


def test_weights_that_are_others_now_have_no_baselines_and_say_so(
    options: TrainOptions, strangers: Path, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    torch.save(create("tf_efficientnet_lite0").state_dict(), file)
    told = {"weights": str(file), "views": 0, "fine_tune_epochs": 1, "epochs": 2, "hidden": 8, "check_folds": 0}
    train(options.model_copy(update=told), tmp_path / "run")
    torch.save(create("tf_efficientnet_lite0").state_dict(), file)
    found = evaluate(tmp_path / "run", ood={"noise": strangers})
    assert found.comparison.sentence.endswith("cannot be had again: its weights are others now.")
    assert found.ood["noise"].baselines == {}
    assert found.leak == {}
    assert "The baselines were skipped" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")

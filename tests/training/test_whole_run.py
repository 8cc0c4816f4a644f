"""A guard whose whole backbone was fine-tuned, from photos to a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oodguard.core.manifest import load_manifest
from oodguard.evaluation.evaluate import evaluate
from oodguard.export.bundle import export_bundle
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from oodguard.training.progress import Silent
from oodguard.training.run import load_run


class Heard(Silent):
    """What training said."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: dict[str, tuple[int, int]] = {}

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        self.stages[stage.split(" (")[0]] = (done, total)


@pytest.fixture(scope="module")
def trained(options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Heard]:
    out, heard = tmp_path_factory.mktemp("whole") / "discs", Heard()
    changed = {"fine_tune_part": "all", "fine_tune_epochs": 2, "fine_tune_accumulate": 2, "out_of_fold": 0}
    given = TrainOptions.model_validate(options.model_dump() | changed | {"check_folds": 0})
    train(given, out, report=heard)
    return out, heard


def test_progress_is_told_step_by_step(trained: tuple[Path, Heard]) -> None:
    _, heard = trained
    done, total = heard.stages["fine-tuning the whole backbone"]
    assert done == total > 4
    assert any(note.startswith("fine-tuned the whole backbone: loss ") for note in heard.notes)


def test_the_run_is_read_back_with_other_weights_than_it_began_with(trained: tuple[Path, Heard], run: Path) -> None:
    whole, last = load_run(trained[0]), load_run(run)
    record = whole.record.backbone
    assert record.cut is None
    assert record.tuned_sha256 is not None
    assert record.weights_sha256 == last.record.backbone.weights_sha256
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert whole.predict(images)[0].shape == (2, 3)


def test_export_and_evaluation(trained: tuple[Path, Heard], run: Path, strangers: Path, tmp_path: Path) -> None:
    export_bundle(trained[0], tmp_path / "bundle", version="1")
    assert load_manifest(tmp_path / "bundle").classes == load_run(trained[0]).record.classes
    found = evaluate(trained[0], ood={"strangers": strangers})
    assert found.accuracy.share > 0.6
    baselines = found.ood["strangers"].baselines
    assert baselines, "the baselines come from the network as it was before"
    # They are those of a run that tuned the last stage alone: the network before is the same, and so is the division.
    beside = evaluate(run, ood={"strangers": strangers}, out=tmp_path)
    # Only what is kept of them in float16 differs.
    assert beside.ood["strangers"].baselines.keys() == baselines.keys()
    for name, one in beside.ood["strangers"].baselines.items():
        assert one.auroc == pytest.approx(baselines[name].auroc, abs=0.02)
        assert one.accepted.share == pytest.approx(baselines[name].accepted.share, abs=0.05)

"""Cross-fitted runs: every photo trains, every photo calibrates by a guard that did not see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodguard.core.errors import InputError
from oodguard.export.bundle import export_bundle
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from oodguard.training.record import RunRecord
from oodguard.training.run import load_run


@pytest.fixture(scope="module")
def crossed(options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    out = tmp_path_factory.mktemp("crossed") / "run"
    return out, train(options.model_copy(update={"cross_fit": 3}), out)


def test_all_photos_train_and_calibrate(crossed: tuple[Path, RunRecord]) -> None:
    out, record = crossed
    assert (record.splits.train, record.splits.calibration, record.splits.test) == (180, 180, 45)
    assert record.calibration.samples == 180
    division = load_run(out).division
    assert division.training == division.calibration
    # The promise is kept by photos that neither trained nor calibrated.
    assert 0.8 < record.metrics["test_acceptance"] <= 1.0
    assert record.metrics["calibration_accuracy"] > 0.85


def test_thresholds_are_out_of_fold(crossed: tuple[Path, RunRecord]) -> None:
    """A photo's own place in the bank would make its nearest-neighbour distance small."""
    out, record = crossed
    run = load_run(out)
    assert run.calibration["knn"].min() > 0  # type: ignore[index]
    assert record.diagnosis is not None


def test_a_bundle_but_no_lower_precision(crossed: tuple[Path, RunRecord], tmp_path: Path) -> None:
    manifest = export_bundle(crossed[0], tmp_path / "bundle")
    assert manifest.calibration == crossed[1].calibration
    with pytest.raises(InputError, match=r"was cross-fitted.*export fp32, or train without --cross-fit"):
        export_bundle(crossed[0], tmp_path / "int8", precision="int8")


def test_one_part_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 parts"):
        TrainOptions(data=Path("photos"), cross_fit=1)

"""What the papers say happens, at a scale of seconds: handwritten digits, two-layer networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits

from oodguard.bench.methods.catalogue import METHODS
from oodguard.bench.methods.classifier import Classifier
from oodguard.bench.methods.ensembles import EnsembleMethod
from oodguard.bench.methods.method import Detector, Method, outputs
from oodguard.bench.problem import LearningProblem
from oodguard.bench.spaces.features import FeatureSpace
from oodguard.core.collusion import CollusionReport
from oodguard.training.compute import cpu_threads, start_compute
from oodguard.training.heads.collusion import diagnose
from oodguard.training.loop import Schedule
from oodguard.training.metrics import auroc

pytestmark = pytest.mark.usefixtures("one_thread")

SCRATCH = Schedule(epochs=30, batch=64, lr=5e-3)
TUNE = Schedule(epochs=20, batch=64, lr=3e-3)


def digits() -> tuple[LearningProblem, torch.Tensor]:
    """Zero to seven to learn; eight and nine never seen. Outliers are digits with their pixels shuffled."""
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order].float(), labels[order]
    x, y, unseen = images[labels < 8], labels[labels < 8], images[labels >= 8]
    outliers = x[:200, torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    space = FeatureSpace.of(x[:800], hidden=64, scratch=SCRATCH, fine_tune=TUNE)
    problem = LearningProblem(
        inputs=x[:800].unsqueeze(0),
        targets=y[:800],
        calibration=x[800:1200],
        calibration_targets=y[800:1200],
        outliers=outliers,
        classes=8,
        space=space,
        seed=0,
    )
    return problem, unseen


def trained(method: Method, problem: LearningProblem, start: Detector | None = None) -> Detector:
    torch.manual_seed(0)
    detector = method.build(problem)
    with cpu_threads(1):
        method.train(detector, problem, compute=start_compute(1), start=start, progress=None)
    return detector.eval()


@pytest.fixture(scope="module")
def problem() -> LearningProblem:
    return digits()[0]


@pytest.fixture(scope="module")
def single(problem: LearningProblem) -> Detector:
    return trained(METHODS["single"], problem)


def accuracy(detector: Detector, problem: LearningProblem) -> float:
    found = outputs(detector, problem, problem.calibration).log_probabilities.argmax(-1)
    return float((found == problem.calibration_targets).float().mean())


def diagnosed(method: EnsembleMethod, problem: LearningProblem, single: Detector) -> CollusionReport:
    found = outputs(trained(method, problem, single), problem, problem.calibration)
    return diagnose(found.logits, problem.calibration_targets, averaging=method.loss.averaging)


def mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def ensemble(name: str) -> EnsembleMethod:
    method = METHODS[name]
    assert isinstance(method, EnsembleMethod)
    return method


def test_joint_training_colludes_and_diversified_members_do_not(problem: LearningProblem, single: Detector) -> None:
    together = diagnosed(ensemble("joint"), problem, single)
    diverse = diagnosed(ensemble("ldr"), problem, single)
    assert together.colluding, together
    assert "constant biases that cancel out" in together.verdict
    assert not diverse.colluding, diverse


def test_jointly_trained_members_lean_on_each_other(problem: LearningProblem, single: Detector) -> None:
    joint = ensemble("joint")
    together, alone = (
        diagnosed(replace(joint, loss=replace(joint.loss, members=2, beta=beta)), problem, single)
        for beta in (1.0, 0.0)
    )
    assert together.colluding, together
    assert not alone.colluding, alone
    assert together.codependence["0.4"] > 10 * alone.codependence["0.4"]
    assert together.relative_diversity > 10 * alone.relative_diversity
    # The members suffer, and the ensemble's own accuracy does not show it.
    assert mean(together.member_accuracy) < mean(alone.member_accuracy) - 0.004
    assert together.ensemble_accuracy > alone.ensemble_accuracy - 0.01


def test_greg_flattens_the_energy_at_equal_accuracy(problem: LearningProblem, single: Detector) -> None:
    plain = trained(METHODS["energy"], problem, single)
    smooth = trained(METHODS["greg"], problem, single)
    assert isinstance(plain, Classifier)
    assert isinstance(smooth, Classifier)
    before, after = (detector.diagnostics(problem)["gradient_norm"] for detector in (plain, smooth))
    assert after < before / 2
    assert accuracy(smooth, problem) > accuracy(plain, problem) - 0.02


def test_from_one_start_independent_members_stay_alike_and_ldrs_part(
    problem: LearningProblem, single: Detector
) -> None:
    unseen = digits()[1]
    found = {}
    for name in ("independent-shared-start", "ldr-shared-start"):
        detector = trained(METHODS[name], problem, single)
        known, ood = (
            outputs(detector, problem, x).scores["pds"].double().numpy() for x in (problem.calibration, unseen)
        )
        found[name] = (auroc(known, ood), ood.mean() - 1 / problem.classes)
    # Without a difference PDS is 1 / C for every image, and rounding errors rank them.
    assert found["independent-shared-start"][1] < 1e-5
    assert 0.3 < found["independent-shared-start"][0] < 0.7
    assert found["ldr-shared-start"][1] > 1e-3
    assert found["ldr-shared-start"][0] > 0.8

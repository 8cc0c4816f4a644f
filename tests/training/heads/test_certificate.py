"""The certified head: trained by GReg, exported, and its radius kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oodguard.core.manifest import load_manifest
from oodguard.core.scores import ScoreName
from oodguard.core.verdict import Outputs
from oodguard.export.bundle import export_bundle
from oodguard.export.fuse import FusedHeads
from oodguard.training.compute import start_compute
from oodguard.training.heads import greg, scores
from oodguard.training.heads.certificate import fit_certified
from oodguard.training.options import TrainOptions
from oodguard.training.pipeline import train
from oodguard.training.run import Run, load_run


@pytest.fixture(scope="module")
def certified(options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("certified") / "run"
    train(options.model_copy(update={"certificate": True, "fine_tune_epochs": 1, "epochs": 5}), out)
    return out


@pytest.fixture(scope="module")
def learned(certified: Path) -> Run:
    return load_run(certified)


def test_gradient_regularisation_lowers_the_gradient_at_the_same_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(300) % 6
    centres = 2.0 * torch.randn(6, 16, generator=generator)
    features = (centres[targets] + torch.randn(300, 16, generator=generator)).unsqueeze(0)
    norms, right = [], []
    for regularised in (False, True):
        torch.manual_seed(0)
        head = nn.Linear(16, 6)
        fit_certified(
            head, features, targets, None, compute=start_compute(1), lr=1e-2, batch=50, regularised=regularised
        )
        with torch.no_grad():
            logits = head(features[0])
        norms.append(float(greg.linear_gradient_norms(logits, head.weight).detach().mean()))
        right.append(float((logits.argmax(-1) == targets).float().mean()))
    assert norms[1] < 0.8 * norms[0]
    assert right[1] > right[0] - 0.02


def test_nothing_within_the_radius_changes_the_verdict_and_the_bound_is_tight(learned: Run) -> None:
    heads = learned.heads
    assert heads.linear is not None
    (constant,) = heads.lipschitz.values()
    torch.manual_seed(0)
    features = heads.centre + heads.scale * torch.randn(50, heads.shapes.width)
    with torch.no_grad():
        energies = scores.energy(heads.linear(heads.standardise(features)))
        threshold = float(energies.median()) + 0.1
        radius = (threshold - energies).abs() / constant
        # The worst directions there are: along the gradient, and along the steepest class.
        steepest = heads.linear.weight[heads.linear.weight.norm(dim=1).argmax()]
        for direction in (steepest, -steepest, *torch.randn(20, heads.shapes.width)):
            moved = features + 0.999 * radius.unsqueeze(1) * direction / direction.norm()
            after = scores.energy(heads.linear(heads.standardise(moved)))
            assert torch.equal(after > threshold, energies > threshold)
        # Far along the steepest class the energy falls at exactly the constant's rate.
        far = heads.centre + 1e3 * heads.scale * steepest / steepest.norm()
        step = heads.scale * steepest / steepest.norm()
        fall = scores.energy(heads.linear(heads.standardise(torch.stack([far, far + step]))))
        assert float(fall[0] - fall[1]) == pytest.approx(constant * float(heads.scale), rel=1e-3)


def test_the_bundle_answers_with_the_radius(certified: Path, learned: Run, tmp_path: Path) -> None:
    export_bundle(certified, tmp_path / "bundle")
    manifest = load_manifest(tmp_path / "bundle")
    assert manifest.score_names[-1] is ScoreName.LINEAR_ENERGY
    assert manifest.calibration.lipschitz == pytest.approx(learned.heads.lipschitz)
    golden = manifest.golden[0]
    outputs = Outputs(
        probabilities=np.array([golden.probabilities], dtype=np.float32), scores=np.array([golden.scores], np.float32)
    )
    for accept in (0.8, 0.95):
        verdict = manifest.judge(outputs, targets=manifest.targets.but(accept=accept))[0]
        score = verdict.scores[ScoreName.LINEAR_ENERGY]
        assert verdict.certified_radius == pytest.approx(
            abs(score.threshold - score.value) / manifest.calibration.lipschitz[ScoreName.LINEAR_ENERGY]
        )


def test_the_fused_heads_give_the_certified_score(learned: Run) -> None:
    torch.manual_seed(1)
    features = torch.rand(7, learned.heads.shapes.width)
    with torch.no_grad():
        assert torch.allclose(FusedHeads(learned)(features)[1][:, -1], learned.heads(features)[1][:, -1], atol=1e-4)


def test_without_a_certificate_there_is_no_radius(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    golden = manifest.golden[0]
    outputs = Outputs(
        probabilities=np.array([golden.probabilities], dtype=np.float32), scores=np.array([golden.scores], np.float32)
    )
    assert ScoreName.LINEAR_ENERGY not in manifest.score_names
    assert manifest.judge(outputs)[0].certified_radius is None

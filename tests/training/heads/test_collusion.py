"""The paper's identities, and what a diagnosis says of ensembles whose nature is known."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from oodguard.core.collusion import Averaging
from oodguard.training.heads.collusion import (
    codependence,
    debias,
    diagnose,
    diversity,
    ensemble_loss,
    joint_loss,
    log_probabilities,
    member_loss,
    members_agree,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def ensemble(members: int = 4, images: int = 60, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(members, images, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (images,), generator=generator)


def test_diversity_of_score_averaging_is_a_divergence_from_the_ensemble_whatever_the_labels_are() -> None:
    logits, targets = ensemble()
    q = logits.mean(0).softmax(-1)
    divergence = (q * (q.log() - logits.log_softmax(-1))).sum(-1).mean()
    assert divergence > 0.5
    torch.testing.assert_close(diversity(logits, targets, "scores"), divergence)
    torch.testing.assert_close(diversity(logits, (targets + 1) % 5, "scores"), divergence)


def test_diversity_of_probability_averaging_is_the_mean_log_ratio_at_the_label() -> None:
    logits, targets = ensemble()
    p = logits.softmax(-1)[:, torch.arange(60), targets]
    torch.testing.assert_close(diversity(logits, targets, "probabilities"), (p.mean(0) / p).log().mean())
    assert diversity(logits, targets, "probabilities") > 0.5


@pytest.mark.parametrize("averaging", ["scores", "probabilities"])
def test_the_ensemble_predicts_a_distribution_and_identical_members_have_no_diversity(averaging: Averaging) -> None:
    logits, targets = ensemble()
    torch.testing.assert_close(log_probabilities(logits, averaging).exp().sum(-1), torch.ones(60, dtype=torch.float64))
    same = logits[:1].expand(3, -1, -1)
    torch.testing.assert_close(log_probabilities(same, averaging), logits[0].log_softmax(-1))
    assert diversity(same, targets, averaging).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("averaging", ["scores", "probabilities"])
def test_beta_goes_from_the_members_loss_to_the_ensembles(averaging: Averaging) -> None:
    logits, targets = ensemble()
    alone, together = member_loss(logits, targets), ensemble_loss(logits, targets, averaging)
    torch.testing.assert_close(alone, torch.stack([functional.cross_entropy(m, targets) for m in logits]).mean())
    torch.testing.assert_close(joint_loss(logits, targets, beta=0.0, averaging=averaging), alone)
    torch.testing.assert_close(joint_loss(logits, targets, beta=1.0, averaging=averaging), together)
    torch.testing.assert_close(
        joint_loss(logits, targets, beta=0.7, averaging=averaging),
        alone - 0.7 * diversity(logits, targets, averaging),
    )
    with pytest.raises(ValueError, match="beta must be at most 1"):
        joint_loss(logits, targets, beta=1.01)


def test_joint_training_by_scores_gives_every_member_the_same_gradient() -> None:
    logits, targets = ensemble()
    logits.requires_grad_()
    joint_loss(logits, targets, beta=1.0, averaging="scores").backward()
    expected = (logits.detach().mean(0).softmax(-1) - functional.one_hot(targets, 5)) / 4 / 60
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected.expand(4, -1, -1))


def test_debiasing_keeps_the_mean_and_takes_the_squared_bias_off_a_squared_diversity() -> None:
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(5, 40, generator=generator, dtype=torch.float64) + torch.arange(5.0).double()[:, None]
    fixed = debias(outputs)
    torch.testing.assert_close(fixed.mean(0), outputs.mean(0))
    bias = (outputs - outputs.mean(0)).mean(1)

    def squared(f: torch.Tensor) -> torch.Tensor:
        return (f - f.mean(0)).square().mean()

    torch.testing.assert_close(squared(outputs) - squared(fixed), bias.square().mean())
    assert bias.square().mean() > 1.5


def mirrored(shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two members whose average is right by 2 nats and who lean to class 0 and to class 1 by `shift`."""
    targets = torch.arange(40) % 2
    right = 2.0 * functional.one_hot(targets, 2).double()
    lean = torch.tensor([shift, 0.0], dtype=torch.float64)
    return torch.stack([right + lean, right - lean]), targets


@pytest.mark.parametrize("averaging", ["scores", "probabilities"])
def test_codependence_is_nothing_for_identical_members(averaging: Averaging) -> None:
    logits, targets = ensemble()
    assert codependence(logits[:1].expand(5, -1, -1), targets, 0.4, averaging) == pytest.approx(0.0, abs=1e-12)


def test_codependence_of_two_mirrored_members_is_their_diversity_over_their_loss() -> None:
    logits, targets = mirrored(3.0)
    relative = diversity(logits, targets, "scores") / ensemble_loss(logits, targets, "scores")
    assert relative > 1
    assert codependence(logits, targets, 0.4, "scores") == pytest.approx(float(relative))


def test_a_larger_dropped_share_costs_more_and_one_member_always_stays() -> None:
    logits, targets = ensemble(members=10)
    rises = [codependence(logits, targets, share, "scores") for share in (0.2, 0.4, 0.6, 1.0)]
    assert 0 < rises[0] < rises[1] < rises[2] < rises[3]
    assert rises[-1] < 5


def test_independent_members_are_healthy() -> None:
    generator = torch.Generator().manual_seed(2)
    targets = torch.arange(300) % 5
    logits = 3.0 * functional.one_hot(targets, 5) + torch.randn(5, 300, 5, generator=generator)
    found = diagnose(logits, targets, training=(logits, targets))
    assert not found.colluding
    assert found.verdict == "healthy: the members stand on their own"
    assert found.members == 5
    assert found.generalisation_gap == 0.0
    assert abs(found.bias_share) < 0.05
    assert found.diversity == pytest.approx(found.member_loss - found.ensemble_loss)
    assert found.relative_diversity == pytest.approx(found.diversity / found.ensemble_loss)


def test_members_that_say_the_same_are_not_called_healthy_without_a_word() -> None:
    generator = torch.Generator().manual_seed(2)
    targets = torch.arange(300) % 5
    one = 3.0 * functional.one_hot(targets, 5) + torch.randn(300, 5, generator=generator)
    logits = one + 0.02 * torch.randn(5, 300, 5, generator=generator)
    found = diagnose(logits, targets)
    assert not found.colluding
    assert found.diversity < 0.01
    assert found.verdict.startswith(f"healthy, but the members agree: their diversity is {found.diversity:.4f} nats")


@pytest.mark.parametrize(
    ("diversity", "loss", "agree"),
    [(0.0099, 0.1, True), (0.01, 0.1, False), (0.0199, 2.0, True), (0.02, 2.0, False), (0.0, 0.0, True)],
)
def test_members_agree_below_a_hundredth_of_a_nat_or_of_the_loss(diversity: float, loss: float, agree: bool) -> None:
    assert members_agree(diversity, loss) == agree


@pytest.mark.parametrize("averaging", ["scores", "probabilities"])
def test_members_that_lean_in_opposite_directions_collude(averaging: Averaging) -> None:
    logits, targets = mirrored(6.0)
    found = diagnose(logits, targets, averaging=averaging)
    assert found.colluding
    assert found.verdict.startswith("colluding: dropping 40 % of the members raises the loss by ")
    assert found.bias_share == pytest.approx(1.0, abs=0.05)
    assert found.member_accuracy == (0.5, 0.5)
    assert found.ensemble_accuracy == 1.0
    assert found.generalisation_gap is None


def test_the_generalisation_gap_is_the_loss_here_less_that_on_training_images() -> None:
    logits, targets = mirrored(0.5)
    sure = 4 * logits
    found = diagnose(logits, targets, averaging="scores", training=(sure, targets))
    expected = ensemble_loss(logits, targets, "scores") - ensemble_loss(sure, targets, "scores")
    assert found.generalisation_gap == pytest.approx(float(expected))
    assert expected > 0.1


def test_a_diagnosis_needs_two_members_and_an_image() -> None:
    logits, targets = mirrored(1.0)
    with pytest.raises(ValueError, match="at least 2 members"):
        diagnose(logits[:1], targets)
    with pytest.raises(ValueError, match="1 image"):
        diagnose(logits[:, :0], targets[:0])

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from oodguard.training.heads.ldr import Ensemble, a2d, alpha, ldr_loss


def test_alpha_averages_to_one_over_the_mean_cross_entropy() -> None:
    logits = torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(50) % 6
    mean = functional.cross_entropy(logits.mean(0), targets)
    assert alpha(logits, targets, floor=0.0).mean().item() == pytest.approx(1 / mean.item(), rel=1e-5)


def test_alpha_is_floored_when_the_training_set_is_fitted() -> None:
    targets = torch.arange(4)
    logits = 8 * torch.eye(4).expand(2, -1, -1)
    assert alpha(logits, targets).max().item() < 2e-3
    assert alpha(logits, targets, floor=0.0).mean().item() > 900


def test_a2d_of_equal_probabilities_is_at_least_log_two() -> None:
    for top in (0.5, 0.7, 0.95):
        p = torch.tensor([[top, 1 - top]])
        assert a2d(p, p).item() == pytest.approx(-math.log(2 * top * (1 - top)), rel=1e-5)
    half = torch.tensor([[0.5, 0.5]])
    assert a2d(half, half).item() == pytest.approx(math.log(2))


def test_a2d_falls_as_members_disagree_and_its_gradient_reaches_both() -> None:
    sure = torch.tensor([[0.9, 0.1]])
    assert a2d(sure, torch.tensor([[0.1, 0.9]])) < a2d(sure, sure)
    p, r = sure.clone().requires_grad_(), sure.clone().requires_grad_()
    a2d(p, r).sum().backward()
    assert p.grad is not None
    assert r.grad is not None
    assert p.grad.abs().sum() > 0
    assert r.grad.abs().sum() > 0


@pytest.mark.parametrize("label", [0, 1])
def test_loss_gradient_matches_equation_seven(label: int) -> None:
    """At f = .3, g = .2 and weight 1.7, d/df of -log f + 1.7 (-log C(f, g)) with C = f + g - 2 f g is -6.01754."""
    f, g = 0.3, 0.2
    logits = torch.tensor([[[math.log(f / (1 - f)), 0.0]], [[math.log(g / (1 - g)), 0.0]]])
    logits = (logits if label == 0 else logits.flip(-1)).requires_grad_()
    targets = torch.tensor([label])
    # The mean over two members halves -log f, so the regularizer's weight is halved as well.
    weight = 1.7 / 2 / alpha(logits, targets, floor=0.0).item()
    ldr_loss(logits, targets, disagreement=weight, floor=0.0).backward()
    assert logits.grad is not None
    # f is a softmax: df/dlogit = f (1 - f); alpha carries no gradient.
    assert logits.grad[0, 0, label].item() == pytest.approx(-6.01754 / 2 * f * (1 - f), abs=1e-4)


def test_loss_is_the_pair_mean() -> None:
    logits = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(2))
    targets = torch.arange(8) % 4
    main = ldr_loss(logits, targets, disagreement=0.0)
    p = logits.softmax(-1)
    pairs = torch.stack([a2d(p[0], p[1]), a2d(p[0], p[2]), a2d(p[1], p[2])]).mean(0)
    expected = main + 0.7 * (alpha(logits, targets) * pairs).mean()
    torch.testing.assert_close(ldr_loss(logits, targets, disagreement=0.7), expected)


def test_active_members_answer_as_they_do_among_all() -> None:
    torch.manual_seed(0)
    ensemble = Ensemble(members=6, width=5, hidden=4, classes=3)
    x = torch.randn(7, 5)
    torch.testing.assert_close(ensemble(x, [4, 1]), ensemble(x)[[4, 1]])
    first, second = ensemble(x)[0], ensemble(x)[1]
    assert not torch.allclose(first, second)


def test_a_step_moves_active_members_only() -> None:
    torch.manual_seed(0)
    ensemble = Ensemble(members=4, width=5, hidden=4, classes=3)
    before = [w.detach().clone() for w in ensemble.weight1]
    optimiser = torch.optim.AdamW(ensemble.parameters(), lr=0.1, weight_decay=0.1)
    ldr_loss(ensemble(torch.randn(6, 5), [0, 3]), torch.arange(6) % 3, disagreement=0.3).backward()
    optimiser.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, ensemble.weight1, strict=True)]
    assert moved == [True, False, False, True]

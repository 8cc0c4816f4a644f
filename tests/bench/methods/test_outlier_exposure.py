from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from oodguard.bench.methods.outlier_exposure import uniform_loss


def test_equal_logits_cost_log_c() -> None:
    assert uniform_loss(torch.full((3, 7), 2.5)).item() == pytest.approx(math.log(7))


def test_loss_is_the_cross_entropy_to_the_uniform_distribution() -> None:
    logits = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    uniform = torch.full((9, 6), 1 / 6)
    torch.testing.assert_close(uniform_loss(logits), functional.cross_entropy(logits, uniform))
    assert uniform_loss(logits) > math.log(6)


def test_descent_flattens_the_prediction() -> None:
    logits = torch.tensor([[3.0, 0.0]], requires_grad=True)
    uniform_loss(logits).backward()
    assert logits.grad is not None
    p = math.exp(3) / (math.exp(3) + 1)
    torch.testing.assert_close(logits.grad, torch.tensor([[p - 0.5, 0.5 - p]]))

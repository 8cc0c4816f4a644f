from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from oodguard.bench.baselines.odin import STEP, TEMPERATURE, odin


def reference(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, step: float) -> np.ndarray:
    """ODIN of a linear classifier, whose gradient is (W_k - sum_c p_c W_c) / T."""
    p = softmax((x @ weight.T + bias) / TEMPERATURE, axis=1)
    slope = (weight[p.argmax(1)] - p @ weight) / TEMPERATURE
    moved = x + step * np.sign(slope)
    return 1.0 - np.asarray(softmax((moved @ weight.T + bias) / TEMPERATURE, axis=1).max(1))


def test_linear_classifier_against_the_formula() -> None:
    torch.manual_seed(0)
    head = nn.Linear(20, 5).double()
    with torch.no_grad():
        head.weight *= 40
    x = torch.randn(30, 20, dtype=torch.float64)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    found = odin(head, x, unit=30.0).numpy()
    np.testing.assert_allclose(found, reference(weight, bias, x.numpy(), 30.0 * STEP), rtol=0, atol=2e-7)
    # The step lowers every score by far more than that.
    assert (reference(weight, bias, x.numpy(), 0.0) - found).min() > 1e-5


def test_inputs_and_weights_are_left_as_they_were() -> None:
    torch.manual_seed(0)
    head, x = nn.Linear(4, 3), torch.randn(5, 4)
    before = x.clone()
    with torch.no_grad():
        odin(head, x)
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert head.weight.grad is None

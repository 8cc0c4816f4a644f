from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

from oodguard.bench.baselines import react
from oodguard.training.heads import scores


def test_clip_and_energy_against_numpy() -> None:
    torch.manual_seed(0)
    inside, x, head = torch.rand(200, 16), 2 * torch.rand(10, 16), nn.Linear(16, 4)
    clip = react.fit_clip(inside)
    assert clip == pytest.approx(float(np.quantile(inside.numpy(), 0.9)), rel=1e-5)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    expected = -logsumexp(np.minimum(x.numpy(), clip) @ weight.T + bias, axis=1)
    with torch.no_grad():
        found = scores.energy(head(react.clipped(x, clip))).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(found + logsumexp(x.numpy() @ weight.T + bias, axis=1)).max() > 1e-2


def test_many_numbers_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(react, "MOST", 1000)
    assert react.fit_clip(torch.rand(5000, 3, generator=torch.Generator().manual_seed(0))) == pytest.approx(
        0.9, abs=0.03
    )

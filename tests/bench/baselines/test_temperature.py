from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from oodguard.bench.baselines.temperature import HIGHEST, LOWEST, fit_temperature


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(truth: float) -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(20_000, 5)
    targets = torch.multinomial((logits / truth).softmax(-1), 1).squeeze(1)
    found = fit_temperature(logits, targets)
    assert found == pytest.approx(truth, rel=0.04)

    def loss(t: float) -> float:
        return float(functional.cross_entropy(logits.double() / t, targets))

    assert loss(found) < min(loss(found * 1.02), loss(found / 1.02))


def test_the_search_has_bounds() -> None:
    targets = torch.arange(30) % 3
    right = functional.one_hot(targets, 3).float()
    assert fit_temperature(right, targets) == pytest.approx(LOWEST, rel=0.01)
    assert fit_temperature(-right, targets) == pytest.approx(HIGHEST, rel=0.01)

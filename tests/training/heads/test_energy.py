from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from oodguard.training.heads.energy import Margins, energy_loss

MARGINS = Margins(inside=-5.0, outside=-2.0)


def test_loss_is_nothing_when_all_lie_on_their_side() -> None:
    assert energy_loss(torch.tensor([-5.0, -9.0]), torch.tensor([-2.0, 4.0]), MARGINS).item() == 0.0


def test_loss_is_the_mean_squared_excess_of_each_group() -> None:
    inside = torch.tensor([-3.0, -8.0, -8.0, -8.0], requires_grad=True)  # 2 above its margin
    outside = torch.tensor([-5.0, 0.0], requires_grad=True)  # 3 below its margin
    loss = energy_loss(inside, outside, MARGINS)
    assert loss.item() == pytest.approx(2.0**2 / 4 + 3.0**2 / 2)
    loss.backward()
    # Training images go down and outliers up; those in place stay.
    assert inside.grad is not None
    assert outside.grad is not None
    assert inside.grad.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert outside.grad.tolist() == [-3.0, 0.0]


def test_crossed_margins_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"margins are crossed: inside \(-2\) must be below outside \(-5\)"):
        Margins(inside=-2.0, outside=-5.0)
    with pytest.raises(ValidationError, match="crossed"):
        Margins(inside=-2.0, outside=-2.0)


def test_margins_are_the_medians_with_a_gap() -> None:
    found = Margins.of(torch.tensor([-9.0, -8.0, -1.0]), torch.tensor([-6.0, -4.0, -3.0]))
    assert (found.inside, found.outside) == (-8.0, -4.0)
    overlapping = Margins.of(torch.tensor([-4.0]), torch.tensor([-9.0]))
    assert (overlapping.inside, overlapping.outside) == (-4.0, -3.0)

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from oodguard.training.heads.divdis import divdis_loss, mutual_information


def one_hot(classes: int) -> torch.Tensor:
    return functional.one_hot(torch.arange(6 * classes) % classes, classes).float()


def test_equal_one_hot_members_share_log_c_and_a_constant_member_nothing() -> None:
    sure = one_hot(5)
    assert mutual_information(sure, sure).item() == pytest.approx(math.log(5), abs=1e-5)
    # A permutation of the classes is as dependent.
    assert mutual_information(sure, sure.flip(1)).item() == pytest.approx(math.log(5), abs=1e-5)
    constant = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1]).expand(len(sure), -1)
    assert mutual_information(constant, sure).item() == pytest.approx(0.0, abs=1e-6)


def test_independent_members_share_nothing_and_half_dependent_ones_what_the_table_says() -> None:
    first = functional.one_hot(torch.tensor([0, 0, 1, 1]), 2).float()
    crossed = functional.one_hot(torch.tensor([0, 1, 0, 1]), 2).float()
    assert mutual_information(first, crossed).item() == pytest.approx(0.0, abs=1e-6)
    # Joint counts (2, 0; 1, 1) of 4: 1/2 log(4/3) + 1/4 log(2/3) + 1/4 log 2.
    partly = functional.one_hot(torch.tensor([0, 0, 0, 1]), 2).float()
    expected = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    assert mutual_information(first, partly).item() == pytest.approx(expected, abs=1e-6)


def test_loss_is_the_pair_mean_plus_the_members_distance_from_the_prior() -> None:
    sure = 60.0 * one_hot(4)
    prior = torch.full((4,), 0.25)
    same = torch.stack([sure, sure, torch.zeros_like(sure)])
    # One of three pairs is dependent; all marginals are the prior.
    assert divdis_loss(same, prior).item() == pytest.approx(math.log(4) / 3, abs=1e-5)
    stuck = torch.zeros(2, 8, 4)
    stuck[:, :, 0] = 60.0
    assert divdis_loss(stuck, prior).item() == pytest.approx(math.log(4), abs=1e-5)

from __future__ import annotations

import math

import pytest
import torch

from oodguard.bench.baselines.members import average_entropy, one_minus_mean_confidence, unique_predictions
from oodguard.training.heads.scores import pds


def test_means_over_members() -> None:
    half = torch.tensor([[[math.log(3), 0.0]], [[0.0, 0.0]]])  # (3/4, 1/4) and (1/2, 1/2)
    entropies = (0.25 * math.log(4) + 0.75 * math.log(4 / 3), math.log(2))
    assert average_entropy(half).item() == pytest.approx(sum(entropies) / 2)
    assert one_minus_mean_confidence(half).item() == pytest.approx(1 - (0.75 + 0.5) / 2)


@pytest.mark.parametrize(("votes", "unique"), [([0, 0, 0], 1), ([0, 1, 0], 2), ([3, 1, 2], 3)])
def test_distinct_votes_are_c_times_pds_of_one_hot_members(votes: list[int], unique: int) -> None:
    logits = torch.full((len(votes), 1, 4), -60.0)
    logits[torch.arange(len(votes)), 0, votes] = 60.0
    assert unique_predictions(logits).tolist() == [unique]
    assert 4 * pds(logits).item() == pytest.approx(unique)

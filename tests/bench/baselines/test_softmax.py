from __future__ import annotations

import math

import torch

from oodguard.bench.baselines.softmax import max_logit, max_softmax


def test_scores_of_one_classifier() -> None:
    logits = torch.tensor([[math.log(6), math.log(3), math.log(1)], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(max_softmax(logits), torch.tensor([0.4, 2 / 3]))
    torch.testing.assert_close(max_logit(logits), torch.tensor([-math.log(6), 0.0]))

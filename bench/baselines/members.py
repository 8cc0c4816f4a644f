"""Scores of an ensemble's members, which the LDR paper (appendix) compares with PDS.

Logits `[M, B, C]` of M members give scores `[B]`, higher = more OOD.
"""

from __future__ import annotations

import torch
from torch import Tensor


def average_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the members: `(1/M) sum_m H[p^m]`, in nats, in [0, log C]. Same sign as the paper's."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).mean(0)


def one_minus_mean_confidence(logits: Tensor) -> Tensor:
    """`1 - (1/M) sum_m max_c p_c^m`. The paper's average max-probability scores ID higher."""
    return 1.0 - logits.softmax(-1).amax(-1).mean(0)


def unique_predictions(logits: Tensor) -> Tensor:
    """How many classes the members vote for, in {1, ..., min(M, C)}. Same sign as the paper's.

    PDS is its continuous form: for one-hot members this is C times PDS.
    """
    votes = torch.zeros(logits.shape[1:], device=logits.device)
    return votes.scatter(-1, logits.argmax(-1).T, 1.0).sum(-1)

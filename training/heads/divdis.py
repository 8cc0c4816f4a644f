"""DivDis: members are asked for statistically independent predictions on images without labels.

Lee, Yao & Finn 2023 (a baseline of the LDR paper). For members f, g on N unlabelled images,

    MI(f, g) = KL( J || m_f m_g^T ),   J = (1/N) sum_n p_f(x_n) p_g(x_n)^T,  m_f = J 1,  m_g = J^T 1
    R(f)     = KL( m_f || prior )

and the loss is the members' cross-entropy + l1 * mean over pairs of MI + l2 * mean over members of R. Equal one-hot
members on C balanced classes give MI = log C; a constant member gives 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8
PRIOR_WEIGHT = 1.0


def mutual_information(first: Tensor, second: Tensor) -> Tensor:
    """MI of two members' probabilities `[N, C]` on the same images: a scalar in nats, at least 0."""
    joint = first.T @ second / len(first)
    product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return (joint * ((joint + EPSILON).log() - (product + EPSILON).log())).sum()


def divdis_loss(logits: Tensor, prior: Tensor) -> Tensor:
    """Mean MI over pairs + mean R over members, for members' logits `[I, N, C]` on unlabelled images."""
    probabilities = logits.softmax(-1)
    active = len(probabilities)
    pairs = [
        mutual_information(probabilities[i], probabilities[j]) for i in range(active) for j in range(i + 1, active)
    ]
    marginals = probabilities.mean(1)
    to_prior = (marginals * ((marginals + EPSILON).log() - (prior + EPSILON).log())).sum(-1).mean()
    return torch.stack(pairs).mean() + PRIOR_WEIGHT * to_prior

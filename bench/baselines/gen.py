"""GEN: a generalised entropy of the softmax, which small probabilities weigh in.

Liu, Lochman & Zach 2023. Of the M largest probabilities p of an image,

    G = sum_{j <= M} p_j^gamma (1 - p_j)^gamma

with the paper's gamma = 0.1 and M = 100 (all of them, where there are fewer classes). The source scores ID higher by
-G; ours is G, in [0, M 4^-gamma].
"""

from __future__ import annotations

from torch import Tensor

EXPONENT = 0.1
MOST_CLASSES = 100


def gen(logits: Tensor) -> Tensor:
    """`[B]` of logits `[B, C]`."""
    p = logits.double().softmax(-1)
    largest = p.topk(min(MOST_CLASSES, p.shape[-1]), dim=-1).values
    found: Tensor = (largest * (1.0 - largest)).clamp_min(0.0).pow(EXPONENT).sum(-1)
    return found.float()

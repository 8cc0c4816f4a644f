"""NCI: how far an embedding leans towards the row of its predicted class, as neural collapse would have it.

Liu & Qin 2025. For an embedding h, its predicted class y, the last layer's rows w_c and the training mean mu,

    P = w_y . (h - mu) / ||h - mu||,   score = -(P + alpha ||h||_1)

The source scores ID higher. alpha is 0: the paper tunes it on OOD images, which we never do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oodguard.bench.baselines.post_hoc import Embedded, LearnedClassifier, Score

LEAST = 1e-8


def fit(learned: LearnedClassifier) -> Score:
    """mu."""
    weight = learned.head.weight.detach().double()
    mean = learned.training.embeddings.double().mean(0)

    def score(images: Embedded) -> Tensor:
        centred = images.embeddings.double() - mean
        along = (centred * weight[images.predicted]).sum(-1)
        length = torch.linalg.vector_norm(centred, dim=-1).clamp_min(LEAST)
        leaning: Tensor = along / length
        return -leaning.float()

    return score

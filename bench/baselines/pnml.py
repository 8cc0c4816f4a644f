"""pNML: the regret of the last layer, had it known the image's class.

Bibas, Feder & Hassner 2021. For z = h / ||h||, X the training embeddings of unit length and p the softmax of z,

    kappa = g / (1 + g),  g = z^T (X^T X)^+ z,   score = log sum_c p_c / (p_c + p_c^kappa (1 - p_c)) / log C

The source's sign. It is in [0, 1]: 0 for a certain prediction where there were training images (g = 0).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from oodguard.bench.baselines.post_hoc import Embedded, LearnedClassifier, Score

LEAST = 1e-12


def fit(learned: LearnedClassifier) -> Score:
    """(X^T X)^+."""
    training = functional.normalize(learned.training.embeddings.double())
    inverse = torch.linalg.pinv(training.T @ training, hermitian=True)

    def score(images: Embedded) -> Tensor:
        unit = functional.normalize(images.embeddings.double())
        p = learned.logits(unit.to(images.embeddings)).double().softmax(-1).clamp(LEAST, 1.0 - LEAST)
        g = ((unit @ inverse) * unit).sum(-1, keepdim=True).clamp_min(0.0)
        regret = (p / (p + (1.0 - p) * p.pow(g / (1.0 + g)))).sum(-1).log()
        return (regret / math.log(learned.classes)).float()

    return score

"""Relation: how strongly an image is tied to training images of alike embedding and alike prediction.

Kim et al. 2023 (neural relation graph). With z = h / ||h|| and p the softmax of an image, and the same of training
images i,

    k_i = max(z . z_i, 0) (p . p_i),   score = -sum_i k_i [k_i > 0.03]

The source scores ID higher. Deviation: the sum is over a class-balanced subset of at most 4,096 training images.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from oodguard.bench.baselines.post_hoc import BANK, Embedded, LearnedClassifier, Score
from oodguard.training.heads.density import bank_rows

WEAKEST = 0.03


def fit(learned: LearnedClassifier) -> Score:
    """The training images' z and p."""
    rows = bank_rows(learned.targets, BANK)
    bank = functional.normalize(learned.training.embeddings[rows])
    bank_p = learned.training.logits[rows].softmax(-1)

    def score(images: Embedded) -> Tensor:
        alike = (functional.normalize(images.embeddings) @ bank.T).clamp_min(0.0)
        ties = alike * (images.logits.softmax(-1) @ bank_p.T)
        return -(ties * (ties > WEAKEST)).sum(-1)

    return score

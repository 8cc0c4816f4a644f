"""NNGuide: the energy, trusted as far as the nearest training images are near and certain.

Park, Jung & Teoh 2023. With z = h / ||h|| and e = logsumexp f of an image, and the same of training images i,

    score = -e * mean_{k largest} (z . z_i) e_i

The source scores ID higher; k = 10 is the paper's for ImageNet. Deviation: the bank is a class-balanced subset of at
most 4,096 training images, as the guard's own.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from oodguard.bench.baselines.post_hoc import BANK, Embedded, LearnedClassifier, Score
from oodguard.training.heads.density import bank_rows

NEIGHBOURS = 10


def fit(learned: LearnedClassifier) -> Score:
    """The bank: training embeddings of unit length, times their e."""
    rows = bank_rows(learned.targets, BANK)
    training = learned.training
    bank = functional.normalize(training.embeddings[rows]) * training.logits[rows].logsumexp(-1, keepdim=True)
    k = min(NEIGHBOURS, len(bank))

    def score(images: Embedded) -> Tensor:
        near = (functional.normalize(images.embeddings) @ bank.T).topk(k, dim=-1).values.mean(-1)
        return -near * images.logits.logsumexp(-1)

    return score

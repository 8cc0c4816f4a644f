"""SHE: how well an embedding agrees with the stored pattern of its predicted class.

Zhang et al. 2023 (simplified Hopfield energy). With S_c the mean embedding of the training images of class c that are
predicted right, and y the predicted class,

    score = -h . S_y

The source scores ID higher. A class that is never predicted right has the mean of all its training images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oodguard.bench.baselines.post_hoc import Embedded, LearnedClassifier, Score


def fit(learned: LearnedClassifier) -> Score:
    """S `[C, D]`."""
    embeddings, targets = learned.training.embeddings, learned.targets
    right = learned.training.predicted == targets

    def pattern(label: int) -> Tensor:
        members = targets == label
        return embeddings[members & right if bool((members & right).any()) else members].mean(0)

    patterns = torch.stack([pattern(label) for label in range(learned.classes)])

    def score(images: Embedded) -> Tensor:
        return -(images.embeddings * patterns[images.predicted]).sum(-1)

    return score

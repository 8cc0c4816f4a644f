"""fDBD: the mean distance to the decision boundaries, in units of the distance to the training mean.

Liu & Qin 2024. For an embedding h, its predicted class y, the last layer's rows w_c and the training mean mu,

    D = 1 / (C - 1) sum_{c != y} |f_y - f_c| / (||w_y - w_c|| ||h - mu||)

The source scores ID higher by D; ours is -D, at most 0. It is 0 on a boundary between all classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oodguard.bench.baselines.post_hoc import Embedded, LearnedClassifier, Score

LEAST = 1e-8


def fit(learned: LearnedClassifier) -> Score:
    """mu, and the distances between the rows."""
    weight = learned.head.weight.detach().double()
    mean = learned.training.embeddings.double().mean(0)
    between = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
    # Of a class from itself, whose logits do not differ; and of two classes with one row.
    between = between.clamp_min(LEAST)

    def score(images: Embedded) -> Tensor:
        logits = images.logits.double()
        apart = (logits.amax(-1, keepdim=True) - logits) / between[images.predicted]
        away = torch.linalg.vector_norm(images.embeddings.double() - mean, dim=-1).clamp_min(LEAST)
        mean_distance: Tensor = apart.sum(-1) / ((learned.classes - 1) * away)
        return -mean_distance.float()

    return score

"""CADRef: the distance to the mean embedding of the predicted class, in two parts by what it does to the logit.

Ling et al. 2025. With m the mean embedding of the training images that are predicted as y, w_y the last layer's row,
S = logsumexp f, and S_0 the training mean of S,

    e+ = ||max((h - m) sign(w_y), 0)||_1 / ||h||_1,   e- = ||max((m - h) sign(w_y), 0)||_1 / ||h||_1
    score = e+ / S + e- / S_0

The source scores ID higher by its negative. Deviations: S below 1e-6 counts as 1e-6, since small classifiers have
energies around 0; a class that no training image is predicted as has the mean of its own images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oodguard.bench.baselines.post_hoc import Embedded, LearnedClassifier, Score

LEAST = 1e-6


def fit(learned: LearnedClassifier) -> Score:
    """m `[C, D]` and S_0."""
    embeddings, predicted = learned.training.embeddings.double(), learned.training.predicted

    def mean(label: int) -> Tensor:
        members = predicted == label
        return embeddings[members if bool(members.any()) else learned.targets == label].mean(0)

    means = torch.stack([mean(label) for label in range(learned.classes)])
    signs = learned.head.weight.detach().double().sign()
    usual = learned.training.logits.double().logsumexp(-1).mean().clamp_min(LEAST)

    def score(images: Embedded) -> Tensor:
        h, y = images.embeddings.double(), images.predicted
        along = (h - means[y]) * signs[y]
        length = h.abs().sum(-1).clamp_min(LEAST)
        helps, harms = along.clamp_min(0.0).sum(-1) / length, (-along).clamp_min(0.0).sum(-1) / length
        strength = images.logits.double().logsumexp(-1).clamp_min(LEAST)
        return (helps / strength + harms / usual).float()

    return score

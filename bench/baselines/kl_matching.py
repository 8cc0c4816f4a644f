"""KL matching: how far a prediction is from the typical prediction of the nearest class.

Hendrycks et al. 2022. With d_k the mean softmax of the calibration images that are predicted as k,

    score = min_k KL(p || d_k)

The source's sign. A class that no calibration image is predicted as has no d_k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oodguard.bench.baselines.post_hoc import Embedded, LearnedClassifier, Score


def fit(learned: LearnedClassifier) -> Score:
    """d_k of the calibration images."""
    p, predicted = learned.calibration.logits.double().softmax(-1), learned.calibration.predicted
    typical = torch.stack([p[predicted == k].mean(0) for k in torch.unique(predicted)]).log()

    def score(images: Embedded) -> Tensor:
        logs = images.logits.double().log_softmax(-1)
        p = logs.exp()
        divergence = (p * logs).sum(-1, keepdim=True) - p @ typical.clamp_min(torch.finfo(typical.dtype).min).T
        return divergence.amin(-1).float()

    return score

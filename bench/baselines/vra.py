"""VRA: the energy of a classifier whose very low and very high activations are rectified.

Xu et al. 2023, VRA-P: an activation below a is 0, one above b is b, with a and b the 60 % and the 95 % quantile of the
training activations. The score is the energy of the resulting logits; the source scores ID higher. The paper tunes the
quantiles on noise images; ours stand in the middle of its grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oodguard.bench.baselines.react import quantile

LOW, HIGH = 0.6, 0.95


def fit_bounds(embeddings: Tensor) -> tuple[float, float]:
    """a and b for training embeddings `[N, D]`."""
    return quantile(embeddings, LOW), quantile(embeddings, HIGH)


def rectified(embeddings: Tensor, bounds: tuple[float, float]) -> Tensor:
    """0 below a, b above b, else as it is."""
    low, high = bounds
    return torch.where(embeddings < low, 0.0, embeddings.clamp_max(high))

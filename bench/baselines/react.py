"""ReAct: the energy of a classifier whose penultimate activations are clipped.

Sun, Guo & Li 2021: `min(h(x), c)` before the last layer, with c the 90 % quantile of the training activations; the
score is the energy of the resulting logits (the source scores ID higher).
"""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILE = 0.9
MOST = 2_000_000  # torch.quantile takes at most 2^24 numbers


def quantile(embeddings: Tensor, share: float) -> float:
    """The value that a share of all activations `[N, D]` is below; of a regular sample where there are very many."""
    flat = embeddings.flatten()
    return float(torch.quantile(flat[:: max(len(flat) // MOST, 1)], share))


def fit_clip(embeddings: Tensor) -> float:
    """c for training embeddings `[N, D]`."""
    return quantile(embeddings, QUANTILE)


def clipped(embeddings: Tensor, clip: float) -> Tensor:
    """`min(h, c)`."""
    return embeddings.clamp_max(clip)

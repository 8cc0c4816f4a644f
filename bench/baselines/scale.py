"""SCALE: the energy of a classifier whose embedding is scaled by how much of it lies in its largest activations.

Xu et al. 2024. For an embedding h >= 0 with the sum s1, and s2 the sum of its largest 15 %,

    h' = h exp(s1 / s2)

The score is the energy of the resulting logits; the source scores ID higher. 15 % is the paper's for ImageNet. Unlike
ASH it changes no label, up to the bias of the last layer.
"""

from __future__ import annotations

from torch import Tensor

from oodguard.bench.baselines.ash import LEAST, kept

PRUNED = 0.85


def scaled(embeddings: Tensor, pruned: float = PRUNED) -> Tensor:
    """h' of embeddings `[B, D]`."""
    values, _ = kept(embeddings, pruned)
    return embeddings * (embeddings.sum(1, keepdim=True) / values.sum(1, keepdim=True).clamp_min(LEAST)).exp()

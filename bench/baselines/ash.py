"""ASH: the energy of a classifier that sees only the largest activations of an embedding.

Djurisic et al. 2023. Of an embedding h >= 0 only the largest 1 - q part stays, the rest is 0; s1 and s2 are its sums
before and after.

    ASH-P: what stays, q = 0.6
    ASH-B: s1 / n, each of the n that stay, q = 0.65
    ASH-S: exp(s1 / s2) times what stays, q = 0.9

The score is the energy of the resulting logits; the source scores ID higher. q is the paper's for ImageNet.
"""

from __future__ import annotations

import torch
from torch import Tensor

PRUNED_P, PRUNED_B, PRUNED_S = 0.6, 0.65, 0.9
LEAST = 1e-12


def kept(embeddings: Tensor, pruned: float) -> tuple[Tensor, Tensor]:
    """Values and places `[B, n]` of the largest activations, all but a part `pruned`; n is at least 1."""
    width = embeddings.shape[1]
    found = embeddings.topk(max(width - round(width * pruned), 1), dim=1)
    return found.values, found.indices


def ash_p(embeddings: Tensor, pruned: float = PRUNED_P) -> Tensor:
    """Pruned embeddings `[B, D]`."""
    values, places = kept(embeddings, pruned)
    return torch.zeros_like(embeddings).scatter(1, places, values)


def ash_b(embeddings: Tensor, pruned: float = PRUNED_B) -> Tensor:
    """Binarised embeddings `[B, D]`, whose sums are as before."""
    values, places = kept(embeddings, pruned)
    each = embeddings.sum(1, keepdim=True) / values.shape[1]
    return torch.zeros_like(embeddings).scatter(1, places, each.expand_as(values))


def ash_s(embeddings: Tensor, pruned: float = PRUNED_S) -> Tensor:
    """Pruned and scaled embeddings `[B, D]`."""
    pruned_embeddings = ash_p(embeddings, pruned)
    after = pruned_embeddings.sum(1, keepdim=True).clamp_min(LEAST)
    return pruned_embeddings * (embeddings.sum(1, keepdim=True) / after).exp()

"""A network as methods see it: a stem, a last block, and a linear classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """`head(last(stem(x)))`: logits `[B, C]` of inputs `[B, ...]`, with the embedding `[B, width]` before the head.

    Members of an ensemble may share the stem and own the rest ("the last two layers", LDR paper, Sec. A.5.1).
    """

    def __init__(self, stem: nn.Module, last: nn.Module, *, width: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.last = last
        self.head = nn.Linear(width, classes)

    def embed(self, x: Tensor) -> Tensor:
        """The embedding `[B, width]`."""
        return torch.flatten(self.last(self.stem(x)), 1)

    def classify(self, embedding: Tensor) -> Tensor:
        """Logits `[B, C]` of embeddings."""
        logits: Tensor = self.head(embedding)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        return self.classify(self.embed(x))


class Standardise(nn.Module):
    """`(x - centre) / scale`, with constants that are stored but not learned."""

    centre: Tensor
    scale: Tensor

    def __init__(self, centre: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("centre", centre.clone())
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Of `[B, D]`."""
        return (x - self.centre) / self.scale


def feature_network(*, centre: Tensor, scale: float, hidden: int, classes: int) -> Network:
    """A two-layer head over features `[B, D]`, which it standardises first."""
    last = nn.Sequential(nn.Linear(len(centre), hidden), nn.ReLU())
    return Network(Standardise(centre, scale), last, width=hidden, classes=classes)

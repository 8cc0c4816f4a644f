"""Features of a frozen network as the space that methods learn in: two-layer heads, trained on cached vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oodguard.bench.networks.network import Network, feature_network
from oodguard.training.loop import Schedule

JITTER = 0.3


@dataclass(frozen=True)
class FeatureSpace:
    """Features `[N, D]` of a frozen network; its networks are two-layer heads that standardise them.

    ```python
    space = FeatureSpace.of(features, hidden=128, scratch=Schedule(...), fine_tune=Schedule(...))
    ```
    """

    centre: Tensor
    unit: float
    hidden: int
    scratch: Schedule
    fine_tune: Schedule

    @property
    def heads(self) -> Schedule:
        """As from scratch: a head is all last layers."""
        return self.scratch

    @classmethod
    def of(cls, features: Tensor, *, hidden: int, scratch: Schedule, fine_tune: Schedule) -> FeatureSpace:
        """The space of training features `[N, D]`: their mean, and one scale for all coordinates."""
        centre = features.mean(0)
        unit = float((features - centre).square().mean().sqrt().clamp_min(1e-6))
        return cls(centre=centre, unit=unit, hidden=hidden, scratch=scratch, fine_tune=fine_tune)

    def network(self, *, classes: int, anchored: bool = False) -> Network:
        """A two-layer head. The residual x - c of an anchored one needs no centring."""
        centre = torch.cat([self.centre, torch.zeros_like(self.centre)]) if anchored else self.centre
        return feature_network(centre=centre, scale=self.unit, hidden=self.hidden, classes=classes)

    def draw(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Each image in a random one of its cached views."""
        return inputs[torch.randint(len(inputs), (len(rows),)), rows]

    def plain(self, inputs: Tensor) -> Tensor:
        """The features themselves."""
        return inputs

    def represent(self, network: Network, x: Tensor) -> Tensor:
        """The frozen network's features, which hold more than a classifier's hidden layer."""
        return x

    def corrupt(self, x: Tensor) -> Tensor:
        """Gaussian noise, since another view of a single feature is not known."""
        return x + JITTER * self.unit * torch.randn_like(x)

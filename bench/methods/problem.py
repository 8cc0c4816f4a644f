"""What a method learns from: training images, held-out images, auxiliary outliers, and the space they live in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from oodguard.bench.networks.network import Network, feature_network
from oodguard.core.errors import InputError
from oodguard.training.loop import Schedule

EVALUATION_BATCH = 256
JITTER = 0.3


class Space(Protocol):
    """Where inputs live: features of a frozen network, or pixels. It builds networks and says how long they train."""

    @property
    def scratch(self) -> Schedule:
        """How long a network trains from nothing."""

    @property
    def heads(self) -> Schedule:
        """How long new last layers train over a trained stem."""

    @property
    def fine_tune(self) -> Schedule:
        """How long a trained one goes on."""

    @property
    def unit(self) -> float:
        """The standard deviation of an input's coordinates."""

    def network(self, *, classes: int, anchored: bool = False) -> Network:
        """An untrained network; an anchored one takes [c, x - c], twice as many input channels."""

    def draw(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """A training batch: the images `rows` of `inputs`, each in a random view."""

    def plain(self, inputs: Tensor) -> Tensor:
        """Images `[B, ...]` as the network is asked about them."""

    def represent(self, network: Network, x: Tensor) -> Tensor:
        """The features `[B, D]` that density scores work on."""

    def corrupt(self, x: Tensor) -> Tensor:
        """T of AMP's consistency training: a random corruption of a batch of anchors that `draw` returned."""


@dataclass(frozen=True)
class LearningProblem:
    """One in-distribution data set.

    inputs: `[V, N, ...]`, V views of each training image (V = 1 where views are made on the fly). held: images that
    calibrate (temperature, thresholds), never trained on. outliers: `[O, ...]` auxiliary outliers, or None.
    """

    inputs: Tensor
    targets: Tensor
    held: Tensor
    held_targets: Tensor
    outliers: Tensor | None
    classes: int
    space: Space
    seed: int

    def batch(self, rows: Tensor, where: torch.device) -> tuple[Tensor, Tensor]:
        """Random views `[B, ...]` of the training images `rows`, and their classes `[B]`."""
        return self.space.draw(self.inputs, rows).to(where), self.targets[rows].to(where)

    def some_outliers(self, count: int, where: torch.device) -> Tensor:
        """`count` random outliers, as training images are shown."""
        return self.space.draw(
            self.need_outliers().unsqueeze(0), torch.randint(len(self.need_outliers()), (count,))
        ).to(where)

    def need_outliers(self) -> Tensor:
        """The auxiliary outliers. Raises `InputError` where there are none."""
        if self.outliers is None:
            raise InputError("this method learns from auxiliary outliers and there are none; give a folder of them")
        return self.outliers


def batched(
    function: Callable[[Tensor], Tensor], space: Space, inputs: Tensor, *, where: torch.device, dim: int = 0
) -> Tensor:
    """`function` of images as they are plainly shown, joined along `dim`, on the CPU.

    Images are made ready batch by batch, so that memory does not grow with their number.
    """
    return torch.cat(
        [function(space.plain(rows).to(where)).cpu() for rows in torch.split(inputs, EVALUATION_BATCH)], dim=dim
    )


@dataclass(frozen=True)
class FeatureSpace:
    """Features `[N, D]` of a frozen network; networks are two-layer heads that standardise them.

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
        """As from nothing: the last two layers are all there is."""
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
        """Each image in one of its cached views."""
        return inputs[torch.randint(len(inputs), (len(rows),)), rows]

    def plain(self, inputs: Tensor) -> Tensor:
        """The features themselves."""
        return inputs

    def represent(self, network: Network, x: Tensor) -> Tensor:
        """The frozen network's features, which keep what a classifier's hidden layer drops."""
        return x

    def corrupt(self, x: Tensor) -> Tensor:
        """Gaussian noise: what another view does to a feature is not known for a single one."""
        return x + JITTER * self.unit * torch.randn_like(x)

"""What a method learns from: training images, calibration images, auxiliary outliers, and the space they lie in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from oodguard.bench.networks.network import Network
from oodguard.core.errors import InputError
from oodguard.training.loop import Schedule

EVALUATION_BATCH = 256


class Space(Protocol):
    """The kind of input: features of a frozen network, or pixels. It builds networks and says how long they train."""

    @property
    def scratch(self) -> Schedule:
        """The schedule of a network that is trained from scratch."""

    @property
    def heads(self) -> Schedule:
        """The schedule of new last layers over a trained stem."""

    @property
    def fine_tune(self) -> Schedule:
        """The schedule that fine-tunes a trained network."""

    @property
    def unit(self) -> float:
        """The standard deviation of an input's coordinates."""

    def network(self, *, classes: int, anchored: bool = False) -> Network:
        """An untrained network; an anchored one takes [c, x - c], twice as many input channels."""

    def draw(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """A training batch: the images `rows` of `inputs`, each in a random view."""

    def plain(self, inputs: Tensor) -> Tensor:
        """Inputs `[B, ...]` as a network takes them, without random views."""

    def represent(self, network: Network, x: Tensor) -> Tensor:
        """The features `[B, D]` that density scores work on."""

    def corrupt(self, x: Tensor) -> Tensor:
        """T of AMP's consistency training: a random corruption of a batch of anchors that `draw` returned."""


@dataclass(frozen=True)
class LearningProblem:
    """One in-distribution data set.

    inputs: `[V, N, ...]`, V views of each training image (V = 1 where views are made on the fly). calibration: images
    for temperature and thresholds, never trained on. outliers: `[O, ...]` auxiliary outliers, or None.
    """

    inputs: Tensor
    targets: Tensor
    calibration: Tensor
    calibration_targets: Tensor
    outliers: Tensor | None
    classes: int
    space: Space
    seed: int

    def batch(self, rows: Tensor, where: torch.device) -> tuple[Tensor, Tensor]:
        """Random views `[B, ...]` of the training images `rows`, and their classes `[B]`."""
        return self.space.draw(self.inputs, rows).to(where), self.targets[rows].to(where)

    def some_outliers(self, count: int, where: torch.device) -> Tensor:
        """`count` random outliers, each in a random view."""
        return self.space.draw(
            self.need_outliers().unsqueeze(0), torch.randint(len(self.need_outliers()), (count,))
        ).to(where)

    def need_outliers(self) -> Tensor:
        """The auxiliary outliers. Raises `InputError` where there are none."""
        if self.outliers is None:
            raise InputError("this method learns from auxiliary outliers; give a folder of them with --outliers")
        return self.outliers


def batched(
    function: Callable[[Tensor], Tensor], space: Space, inputs: Tensor, *, where: torch.device, dim: int = 0
) -> Tensor:
    """`function` of plain inputs, batch by batch, joined along `dim` on the CPU.

    Each batch is prepared when its turn comes, so that memory does not grow with the number of images.
    """
    return torch.cat(
        [function(space.plain(rows).to(where)).cpu() for rows in torch.split(inputs, EVALUATION_BATCH)], dim=dim
    )

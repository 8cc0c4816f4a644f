"""What a post-hoc score is fitted on, and what it scores.

A module of this folder that needs fitting has a function `fit` from `LearnedClassifier` to a `Score`; `catalogue.py`
lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn
from torch.nn import functional

from oodguard.bench.baselines.temperature import fit_temperature

# Training images at most, class by class, of scores that look at each of them.
BANK = 4096


@dataclass(frozen=True)
class Embedded:
    """What a classifier makes of B images: embeddings `[B, D]` before its last layer, and logits `[B, C]`.

    features: `[B, R]`, what density scores work on, which may hold more than the embeddings.
    """

    embeddings: Tensor
    logits: Tensor
    features: Tensor

    @property
    def predicted(self) -> Tensor:
        """The predicted classes `[B]`."""
        return self.logits.argmax(-1)


@dataclass(frozen=True)
class LearnedClassifier:
    """A trained classifier's last layer, its training images with their classes `[N]`, and its calibration images.

    Nothing of it is OOD: no score here is fitted on images that it is to flag.
    """

    head: nn.Linear
    training: Embedded
    targets: Tensor
    calibration: Embedded
    calibration_targets: Tensor

    @cached_property
    def temperature(self) -> float:
        """The temperature that makes the calibration images' confidence match their accuracy."""
        return fit_temperature(self.calibration.logits, self.calibration_targets)

    @property
    def classes(self) -> int:
        """C."""
        return self.head.out_features

    def logits(self, embeddings: Tensor) -> Tensor:
        """`[B, C]` of embeddings `[B, D]`, which need not be an image's own."""
        return functional.linear(embeddings, self.head.weight.detach(), self.head.bias.detach())


# OOD scores `[B]` of images; higher = more OOD.
Score = Callable[[Embedded], Tensor]
Fit = Callable[[LearnedClassifier], Score]
